import type { PlaceOptions, Robustness, TrafficModel } from '@switchyard/placement';
import { type Command, Option } from 'commander';
import { integerIn, numberIn } from '../terminal/option-values.ts';
import { duration, robustness, share } from './option-values.ts';

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
}

export function addSearchOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--model <traffic>', 'what travels: rows to the nodes of a token and back, rows to their rank, or tokens themselves')
        .choices(['fan-out', 'home-rank', 'chain'])
        .default('fan-out'),
    )
    .option('--seed <number>', 'same seed, same plan', integerIn(0, 4_294_967_295), 1)
    .option('--peak <ratio>', 'peak over mean rows per node and layer to stay below', numberIn(1, 1000), 1.12)
    .option('--home-tolerance <share>', 'how far the tokens of one home may be from its share', share, 0.05)
    .option('--sample-tokens <count>', 'tokens that the search looks at', integerIn(1, 10_000_000), 12_000)
    .option('--starts <count>', 'independent starts', integerIn(1, 1000), 2)
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
    .option('--robust <kind>', 'over domains: mean, worst or cvar:20%', robustness, { kind: 'mean' })
    .option('--deadline <time>', 'stop the search after this long, with the best plan so far', duration)
    .option('--tokens-max <count>', 'tokens held in memory; longer traces are thinned by sequence', integerIn(1, 50_000_000), 400_000);
}

/** Effort of annealing where only its goal is given. */
const annealingForLimit = 1000;

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
