import { stepDefaults } from '@switchyard/proto';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import { storedElementBytes, type TensorInfo } from '../checkpoint/safetensors-header.ts';
import type { TensorView } from '../checkpoint/tensor-view.ts';
import { laneRows, logitRows } from '../engine/lanes.ts';
import type { LoadOptions } from './contract.ts';
import { describeModel } from './families.ts';
import type { ModelGraph, Part } from './graph.ts';
import { commonBytes, kvBytesPerToken, laneBytes, logitBytes } from './memory.ts';
import { expertBytes, expertDType, resolveNumericClass } from './numeric-class.ts';

export interface ModelInspection {
  dir: string;
  modelType: string;
  layers: number;
  moeLayers: number[];
  experts: number;
  topK: number;
  hidden: number;
  vocab: number;
  maxContext: number;
  /** How expert matrices are stored. */
  expertDType: string | null;
  numericClass: string;
  parameters: { total: number /** used for one token */; active: number };
  /** Bytes of the checkpoint by part, as stored. */
  storedBytes: Record<Part, number>;
  /** Bytes when resident in the numeric class. The embedding stays in its file. */
  residentBytes: {
    /** What every worker holds of the model: all but experts, and the positions of its longest context. */
    common: number;
    /** What steps write, of the sizes that are usual (`usualSteps`). */
    steps: number;
    /** One expert of the first layer that has any. */
    expert: number;
    allExperts: number;
    kvPerToken: number;
  };
}

/** What a worker with so much memory can hold. */
export interface Fit {
  memoryBytes: number;
  /** Experts over all layers beside what every worker holds; less than 0: not even that fits. */
  expertsPerWorker: number;
  /** Workers that hold every expert once, with no room for KV; null where no number is enough. */
  workersNeeded: number | null;
  /** Tokens of KV cache that fit beside the experts of one of `workersNeeded` workers. */
  kvTokens: number;
}

/** Rows that the steps of a worker have where its rows leave for others and nothing is set. */
export const usualSteps = { laneRows: laneRows(stepDefaults), maxLogitRows: logitRows(stepDefaults) };

/**
 * What a checkpoint is and what it takes, from config and headers alone. Throws `bad_checkpoint`.
 */
export function inspectModel(
  dir: string,
  numericClass: LoadOptions['numericClass'] = { activations: 'auto', experts: 'stored', dense: 'stored', sum: 'exact' },
): ModelInspection {
  const graph = describeModel(openCheckpoint(dir));
  const stored = storedTensors(graph);
  const resolved = resolveNumericClass(graph, numericClass);
  const common = commonBytes(graph, resolved, graph.maxContext);
  const steps = usualSteps.laneRows.reduce((sum, rows) => sum + laneBytes(graph, rows), logitBytes(graph, usualSteps.maxLogitRows));
  const bank = graph.moe[0]?.bank ?? null;
  const expert = bank === null ? 0 : expertBytes(bank, resolved);
  const kvPerToken = kvBytesPerToken(graph, resolved);
  const allExperts = graph.moe.reduce((sum, node) => sum + graph.experts * expertBytes(node.bank, resolved), 0);
  return {
    dir,
    modelType: graph.modelType,
    layers: graph.layers,
    moeLayers: graph.moe.map((node) => node.layer),
    experts: graph.experts,
    topK: graph.topK,
    hidden: graph.hidden,
    vocab: graph.vocab,
    maxContext: graph.maxContext,
    expertDType: bank && expertDType(bank),
    numericClass: resolved.name,
    parameters: countParameters(graph, stored),
    storedBytes: countStoredBytes(stored),
    residentBytes: { common, steps, expert, allExperts, kvPerToken },
  };
}

/** Pure: how many workers of `memoryBytes` hold `common` (whatever is not experts or KV) each and `experts` experts of `expertBytes` between them. */
export function fitInto(memoryBytes: number, common: number, expertBytes: number, experts: number, kvPerToken: number): Fit {
  const room = memoryBytes - common;
  const expertsPerWorker = room < 0 ? -1 : expertBytes === 0 ? experts : Math.min(experts, Math.floor(room / expertBytes));
  const workersNeeded = expertsPerWorker < 1 ? (experts === 0 && room >= 0 ? 1 : null) : Math.ceil(experts / expertsPerWorker);
  const held = workersNeeded === null ? 0 : Math.ceil(experts / workersNeeded) * expertBytes;
  return { memoryBytes, expertsPerWorker, workersNeeded, kvTokens: workersNeeded === null ? 0 : Math.floor((room - held) / kvPerToken) };
}

interface StoredTensor {
  part: Part;
  /** Weights: 0 for scales. */
  elements: number;
  bytes: number;
}

/** Every tensor that the model reads, once, under the part that reads it first: a tied head reads the embedding's. */
function storedTensors(graph: ModelGraph): StoredTensor[] {
  const found = new Map<TensorInfo, StoredTensor>();
  const add = (part: Part, { tensor, dtype, scale }: TensorView) => {
    const elements = dtype === 'mxfp4' ? 2 * tensor.bytes : tensor.bytes / storedElementBytes(tensor.dtype);
    if (!found.has(tensor)) found.set(tensor, { part, elements, bytes: tensor.bytes });
    if (scale !== null) found.set(scale.tensor, { part, elements: 0, bytes: scale.tensor.bytes });
  };
  for (const { view } of graph.tables) add('embedding', view);
  for (const { part, pieces } of [...graph.matrices, ...graph.constants]) for (const { view } of pieces) add(part, view);
  for (const { bank } of graph.moe)
    for (const views of bank.views)
      for (const view of Object.values(views) as (TensorView | null)[]) if (view !== null) add('experts', view);
  return [...found.values()];
}

/** A token uses its experts' share of their weights, and of an embedding that is not the head as well one row. */
function countParameters(graph: ModelGraph, stored: readonly StoredTensor[]): { total: number; active: number } {
  const elementsOf = (part: Part) => stored.filter((tensor) => tensor.part === part).reduce((sum, { elements }) => sum + elements, 0);
  const total = stored.reduce((sum, { elements }) => sum + elements, 0);
  const tied = elementsOf('head') < graph.hidden * graph.vocab;
  const idleExperts = graph.experts === 0 ? 0 : elementsOf('experts') * (1 - graph.topK / graph.experts);
  return { total, active: total - idleExperts - (tied ? 0 : elementsOf('embedding') - graph.hidden) };
}

function countStoredBytes(stored: readonly StoredTensor[]): Record<Part, number> {
  const bytes: Record<Part, number> = { embedding: 0, attention: 0, dense: 0, shared: 0, router: 0, experts: 0, norms: 0, head: 0 };
  for (const tensor of stored) bytes[tensor.part] += tensor.bytes;
  return bytes;
}
