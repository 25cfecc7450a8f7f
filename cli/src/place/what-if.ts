import { type Change, changedTopology, chooseHomes, clusterOf, holdOut, place, scoreFanOut, thinTokens } from '@switchyard/placement';
import { SwitchyardError, type Topology } from '@switchyard/proto';
import { Command } from 'commander';
import { interruptSignal } from '../commands/interrupt.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { numberIn } from '../terminal/option-values.ts';
import { print } from '../terminal/visible.ts';
import { comparisonTable, figuresOf, measuredOn, scoreTokensMax, stepTimesBy } from './comparison.ts';
import { readCluster, readRouting } from './files.ts';
import { share } from './option-values.ts';
import { ProgressLine } from './progress-line.ts';
import { addSearchOptions, placeOptions, refuseUnused, type SearchFlags } from './search-options.ts';

interface Flags extends SearchFlags {
  trace: string;
  topology: string;
  replicas: number;
  loseNode?: string;
  addNode?: boolean;
  linkSpeed?: number;
  calibration?: string;
  json?: boolean;
}

export function whatIfCommand(): Command {
  const command = new Command('what-if')
    .description('Plan for a cluster that does not exist yet: one node less, one more, other links')
    .requiredOption('--trace <file>', 'a routing trace')
    .requiredOption('--topology <file>', 'the cluster as it is')
    .option('--replicas <share>', 'memory for replicas, as a share of one copy of everything', share, 0.25)
    .option('--lose-node <name>', 'without this node')
    .option('--add-node', 'with one more node like the last')
    .option('--link-speed <factor>', 'with links between nodes this many times as fast', numberIn(0.001, 1000))
    .option('--calibration <file>', 'what `switchyard bench calibrate` measured')
    .option('--json', 'print as JSON');
  return addSearchOptions(command).action(async (flags: Flags) => {
    const changes: Change[] = [
      ...(flags.loseNode === undefined ? [] : [{ kind: 'lose-node' as const, node: flags.loseNode }]),
      ...(flags.addNode ? [{ kind: 'add-node' as const }] : []),
      ...(flags.linkSpeed === undefined ? [] : [{ kind: 'link-speed' as const, factor: flags.linkSpeed }]),
    ];
    if (changes.length === 0)
      throw new CommandFailure('nothing to ask: give --lose-node, --add-node or --link-speed', { status: exitStatus.usage });
    refuseUnused(flags);
    const { topology: before, host } = readCluster(flags);
    // Before a search that may take minutes: a node that is not there cannot be lost, nor may what comes of a change be out of range.
    const after = changes.reduce(changedTopology, before);
    clusterOf(after);
    const trace = await readRouting(flags.trace, flags.tokensMax, flags);
    const { train, test } = holdOut(trace, trace.sequences.length >= 8 ? 0.25 : 0, flags.seed);
    const judged = thinTokens(test.tokens > 0 ? test : train, scoreTokensMax);
    const { signal, release } = interruptSignal();
    const line = new ProgressLine(null);
    const ask = async (name: string, topology: Topology) => {
      const placed = await place(train, topology, {
        ...placeOptions(flags, signal),
        replicas: flags.replicas,
        onProgress: (p) => line.update(`${name}: ${p.stage}`, p.incumbent),
      }).catch((error: Error) => {
        throw error instanceof SwitchyardError ? new CommandFailure(`${name}: ${error.message} (${error.code})`, { cause: error }) : error;
      });
      const cluster = clusterOf(topology);
      const homes = chooseHomes(judged, placed.masks, cluster, { kind: 'whole-sequence' }, flags.homeTolerance);
      const score = scoreFanOut(judged, placed.plan.replicas, cluster, homes);
      return {
        name,
        stopped: placed.stopped,
        figures: figuresOf(score, { trace: judged, replicas: placed.plan.replicas, homes, cluster, topology, seed: flags.seed }, host),
      };
    };
    // The cluster that is not there yet goes first: if it is too small, that is known before the other one was searched for minutes.
    const changed = await ask(changes.map((c) => c.kind).join(', '), after);
    const columns = [await ask('as it is', before), changed];
    line.finish();
    release();
    if (signal.aborted) process.exitCode = exitStatus.interrupted; // after what was found until then
    if (flags.json) {
      print(`${JSON.stringify({ format: 'switchyard-place-what-if', version: 1, clusters: columns })}\n`);
      return;
    }
    const stopped = columns.filter((c) => c.stopped).map((c) => c.name);
    print(
      `${comparisonTable(columns, null, 'not proven')}\n${measuredOn(judged, test.tokens > 0)}; ${stepTimesBy(host)}\n` +
        `${stopped.length > 0 ? `stopped early, with the best plan so far: ${stopped.join('; ')}\n` : ''}`,
    );
  });
}
