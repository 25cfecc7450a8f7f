import type { PlaceOptions, Robustness, TrafficModel } from '@switchyard/placement';
import { type Command, Option } from 'commander';
import { CommandFailure, exitStatus } from '../failure.ts';
import { integerIn, numberIn } from '../terminal/option-values.ts';
import { duration, type IdShape, idShape, robustness, share } from './option-values.ts';

/** Options that every command that plans has. */
export interface SearchFlags {
  model: TrafficModel;
  seed: number;
  peak: number;
  homeTolerance: number;
  sampleTokens: number;
  starts: number;
  anneal?: number;
  maxR?: number;
  robust: Robustness;
  deadline?: number;
  tokensMax: number;
  shape?: IdShape;
}

/** @param effort by default, where a command plans many times for one answer */
export function addSearchOptions(command: Command, effort = { starts: 2, sampleTokens: 12_000 }): Command {
  return command
    .addOption(
      new Option('--model <traffic>', 'what travels: rows to the nodes of a token and back, rows to their rank, or tokens themselves')
        .choices(['fan-out', 'home-rank', 'chain'])
        .default('fan-out'),
    )
    .option('--seed <number>', 'same seed, same plan', integerIn(0, 4_294_967_295), 1)
    .option('--peak <ratio>', 'peak over mean rows per node and layer to stay below', numberIn(1, 1000), 1.12)
    .option('--home-tolerance <share>', 'how far the tokens of one home may be from its share', share, 0.05)
    .option(
      '--sample-tokens <count>',
      'different choices of a layer that the search looks at',
      integerIn(1, 10_000_000),
      effort.sampleTokens,
    )
    .option('--starts <count>', 'independent starts', integerIn(1, 1000), effort.starts)
    .option(
      '--anneal <effort>',
      'annealing after the starts, in proposals per expert that memory holds: thousands take minutes and find more (default: none; 1000 with --max-r)',
      integerIn(0, 100_000),
    )
    .option(
      '--max-r <nodes>',
      'remote nodes per token and layer that may be spent; the rest goes to the share served at home',
      numberIn(0.01, 64),
    )
    .addOption(
      new Option('--robust <kind>', 'over domains: mean, worst or cvar:20%').argParser(robustness).default({ kind: 'mean' }, 'mean'),
    )
    .option('--deadline <time>', 'stop a search after this long, with the best plan so far', duration)
    .option('--tokens-max <count>', 'tokens held in memory; longer traces are thinned by sequence', integerIn(1, 50_000_000), 400_000)
    .option('--shape <LxKxE>', 'layers x top-k x experts of a dump of expert ids without .shape.json, like 24x4x32', idShape);
}

/** Effort of annealing where only its goal is given. */
const annealingForLimit = 1000;

/** What a traffic model has no use for is refused, not left aside; before a long trace is read. */
export function refuseUnused({ model, maxR, anneal, robust }: SearchFlags): void {
  const refuse = (option: string, models: string): never => {
    throw new CommandFailure(`${option} needs --model ${models}; it is ${model}`, { status: exitStatus.usage });
  };
  if (maxR !== undefined && model !== 'fan-out') refuse('--max-r', 'fan-out');
  if (model !== 'chain') return;
  if (anneal !== undefined && anneal > 0) refuse('--anneal', 'fan-out or home-rank');
  if (robust.kind !== 'mean') refuse(`--robust ${robust.kind}`, 'fan-out or home-rank');
}

/** Starts the clock of the deadline. The library reads no clock of its own. */
export function placeOptions(flags: SearchFlags, signal: AbortSignal): Partial<PlaceOptions> {
  return {
    model: flags.model,
    seed: flags.seed,
    peakMeanMax: flags.peak,
    homeTolerance: flags.homeTolerance,
    sampleTokens: flags.sampleTokens,
    starts: flags.starts,
    annealing: flags.anneal ?? (flags.maxR === undefined ? 0 : annealingForLimit),
    ...(flags.maxR === undefined ? {} : { remoteNodesMax: flags.maxR }),
    robust: flags.robust,
    signal,
    ...(flags.deadline === undefined ? {} : { now: () => performance.now(), deadlineMs: performance.now() + flags.deadline }),
  };
}
