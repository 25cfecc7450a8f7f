import { MemoryNetwork, type Plan, type Submit } from '@switchyard/proto';
import { type Answer, InProcessCluster } from '../in-process-cluster.ts';
import { type ToyShape, toyModel, toyNative } from './toy-model.ts';

/** Clusters of toy models, for tests of schedules. */
export const toyShape: ToyShape = {
  experts: 6,
  topK: 3,
  moeLayers: 3,
  kvBlocks: 200,
  maxRows: 64,
  maxSequences: 16,
  maxLogitRows: 32,
  maxContext: 256,
};

export interface ToyLayout {
  plan: Plan;
  shape?: Partial<ToyShape>;
  maxBatchRows?: number;
  prefixCache?: boolean;
  draftMax?: number;
  rowDeadlineMs?: number;
  network?: MemoryNetwork;
}

export function toyPlan(replicas: number[][][], nodes: number[]): Plan {
  return {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'toy', moeLayers: [1, 2, 3], experts: toyShape.experts },
    workers: nodes.map((node, w) => ({ name: `w${w}`, node })),
    replicas,
    provenance: null,
  };
}

export const alone = toyPlan(
  Array.from({ length: toyShape.moeLayers }, () => Array.from({ length: toyShape.experts }, () => [0])),
  [0],
);

export async function startToys(layout: ToyLayout): Promise<InProcessCluster> {
  const own = { ...toyShape, draftMax: layout.draftMax ?? 0, ...layout.shape };
  const workers = layout.plan.workers.map((_, w) => {
    const hosted = layout.plan.replicas.map((layer) => layer.flatMap((holders, e) => (holders.includes(w) ? [e] : [])));
    return toyModel(own, hosted.every((experts) => experts.length === own.experts) ? null : hosted);
  });
  return InProcessCluster.start({
    native: toyNative,
    models: workers,
    plan: layout.plan,
    transport: layout.network ?? new MemoryNetwork(),
    addressOf: (w) => `memory://w${w}`,
    maxBatchRows: layout.maxBatchRows ?? own.maxRows,
    maxSequences: own.maxSequences,
    maxLogitRows: own.maxLogitRows,
    prefixCache: layout.prefixCache ?? true,
    draftMax: layout.draftMax ?? 0,
    rowDeadlineMs: layout.rowDeadlineMs ?? 20_000,
  });
}

/** What the request gets alone on one worker, all rows at once, no prefix cache. */
export async function runAlone(submits: Submit[], habits = false): Promise<Answer[]> {
  const cluster = await startToys({ plan: alone, shape: { maxRows: 256, maxLogitRows: 256, habits }, prefixCache: false });
  const answers: Answer[] = [];
  for (const submit of submits) answers.push(await cluster.run(0, submit));
  await cluster.close();
  return answers;
}
