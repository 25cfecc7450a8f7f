import { promptLaneRows, stepDefaults } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { seededRandom, shuffle } from '../random.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import type { PlannedStep } from './host-model.ts';

/** Rows of one step over prompts where rows leave, as workers make them. */
const promptStepRows = promptLaneRows(stepDefaults.maxBatchRows);

/**
 * Decode steps of streams from the trace, each on its sequence's home: the same streams for the same seed. Streams are given out as evenly as the homes of the trace
 * allow; each begins somewhere in its sequence, and at the beginning again after its end.
 *
 * @param homes home worker of each sequence, (sequences)
 * @param streams of all homes together
 * @param steps of each home
 */
export function decodeSteps(
  trace: RoutingTrace,
  homes: Int32Array,
  cluster: Cluster,
  streams: number,
  steps: number,
  seed: number,
): PlannedStep[][] {
  const random = seededRandom(seed);
  const starts = sequenceStarts(trace);
  const sequences = sequencesByHome(trace, homes, cluster, seed);
  const running = sequences.map((): { sequence: number; at: number }[] => []);
  const able = [...sequences.keys()].filter((home) => sequences[home].length > 0);
  for (let i = 0; i < streams && able.length > 0; i++) {
    const home = able[i % able.length];
    const sequence = sequences[home][running[home].length % sequences[home].length];
    running[home].push({ sequence, at: random.below(trace.sequences[sequence].tokens) });
  }
  return running.map((list) => {
    if (list.length === 0) return [];
    return Array.from({ length: steps }, (_, step) => {
      const positions = list.map(({ sequence, at }) => (at + step) % trace.sequences[sequence].tokens);
      return {
        rows: list.map(({ sequence }, i) => starts[sequence] + positions[i]),
        contextTokens: positions.reduce((sum, position) => sum + position + 1, 0),
        tokens: list.length,
        afterRequests: 0,
      };
    });
  });
}

/** Prompts of the trace on their homes, `tokens` in all, in steps as workers make them; a home whose sequences run out repeats them. */
export function promptSteps(trace: RoutingTrace, homes: Int32Array, cluster: Cluster, tokens: number, seed: number): PlannedStep[][] {
  const starts = sequenceStarts(trace);
  const byHome = sequencesByHome(trace, homes, cluster, seed);
  const able = [...byHome.keys()].filter((home) => byHome[home].length > 0);
  return byHome.map((sequences, home) => {
    const at = able.indexOf(home);
    if (at < 0) return [];
    const most = Math.floor(((at + 1) * tokens) / able.length) - Math.floor((at * tokens) / able.length);
    const all = sequences.flatMap((sequence) =>
      Array.from({ length: trace.sequences[sequence].tokens }, (_, position) => ({ sequence, position })),
    );
    const rows = Array.from({ length: most }, (_, i) => all[i % all.length]);
    return Array.from({ length: Math.ceil(rows.length / promptStepRows) }, (_, step) => {
      const chunk = rows.slice(step * promptStepRows, (step + 1) * promptStepRows);
      return {
        rows: chunk.map(({ sequence, position }) => starts[sequence] + position),
        contextTokens: chunk.reduce((sum, { position }) => sum + position + 1, 0),
        tokens: chunk.filter(({ sequence, position }) => position === trace.sequences[sequence].tokens - 1).length,
        afterRequests: 0,
      };
    });
  });
}

/** Sequences of each home worker in a seeded order; a home that the trace gives none has none. */
function sequencesByHome(trace: RoutingTrace, homes: Int32Array, cluster: Cluster, seed: number): number[][] {
  const order = shuffle(
    Array.from(trace.sequences, (_, sequence) => sequence),
    seededRandom(seed),
  );
  return cluster.workers.map((_, home) => order.filter((sequence) => homes[sequence] === home));
}

function sequenceStarts(trace: RoutingTrace): number[] {
  let at = 0;
  return trace.sequences.map(({ tokens }) => {
    at += tokens;
    return at - tokens;
  });
}
