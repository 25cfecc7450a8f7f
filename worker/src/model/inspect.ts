import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import { viewBytes } from '../checkpoint/tensor-view.ts';
import type { LoadOptions } from './contract.ts';
import { describeModel } from './families.ts';
import type { ExpertBank, ModelGraph, Part } from './graph.ts';
import { kvBytesPerToken } from './memory.ts';
import { expertDType, expertFormat, formatBytes, matrixFormat, resolveNumericClass } from './numeric-class.ts';

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
  /** Bytes of the checkpoint's weights by part, as stored. */
  storedBytes: Record<Part, number>;
  /** Bytes when resident in the numeric class. The embedding stays in its file. */
  residentBytes: {
    /** Everything that every worker holds. */
    common: number;
    /** One expert of one layer. */
    expert: number;
    allExperts: number;
    kvPerToken: number;
  };
  fit: Fit | null;
}

/** What a worker with so much memory can hold. */
export interface Fit {
  memoryBytes: number;
  /** Experts over all layers beside everything common; less than 0: not even that fits. */
  expertsPerWorker: number;
  /** Workers that hold every expert once, with no room for KV; null where no number is enough. */
  workersNeeded: number | null;
  /** Tokens of KV cache that fit beside the experts of one of `workersNeeded` workers. */
  kvTokens: number;
}

/**
 * What a checkpoint is and what it takes, from config and headers alone. `memoryBytes`: memory of one worker, or null for no statement about what fits.
 * Throws `bad_checkpoint`.
 */
export function inspectModel(
  dir: string,
  numericClass: LoadOptions['numericClass'] = { activations: 'auto', experts: 'stored', dense: 'stored', sum: 'exact' },
  memoryBytes: number | null = null,
): ModelInspection {
  const graph = describeModel(openCheckpoint(dir));
  const resolved = resolveNumericClass(graph, numericClass);
  const common = graph.matrices.reduce((sum, m) => sum + formatBytes(matrixFormat(m, resolved), m.n * m.k), 0);
  const bank = graph.moe[0]?.bank ?? null;
  const expert = bank === null ? 0 : formatBytes(expertFormat(bank, resolved), expertElements(bank));
  const kvPerToken = kvBytesPerToken(graph, resolved);
  const allExperts = expert * graph.experts * graph.moe.length;
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
    parameters: countParameters(graph),
    storedBytes: countStoredBytes(graph),
    residentBytes: { common, expert, allExperts, kvPerToken },
    fit: memoryBytes === null ? null : fitInto(memoryBytes, common, expert, graph.experts * graph.moe.length, kvPerToken),
  };
}

/** Pure: how many workers of `memoryBytes` hold `common` each and `experts` experts of `expertBytes` between them. */
export function fitInto(memoryBytes: number, common: number, expertBytes: number, experts: number, kvPerToken: number): Fit {
  const room = memoryBytes - common;
  const expertsPerWorker = room < 0 ? -1 : expertBytes === 0 ? experts : Math.min(experts, Math.floor(room / expertBytes));
  const workersNeeded = expertsPerWorker < 1 ? (experts === 0 && room >= 0 ? 1 : null) : Math.ceil(experts / expertsPerWorker);
  const held = workersNeeded === null ? 0 : Math.ceil(experts / workersNeeded) * expertBytes;
  return { memoryBytes, expertsPerWorker, workersNeeded, kvTokens: workersNeeded === null ? 0 : Math.floor((room - held) / kvPerToken) };
}

function expertElements({ hidden, inter }: ExpertBank): number {
  return 3 * hidden * inter;
}

/** Biases of experts are not counted: they are a thousandth of their matrices. */
function countParameters(graph: ModelGraph): { total: number; active: number } {
  const embedding = graph.tables.reduce((sum, { view }) => sum + view.n * view.k, 0);
  const tied = graph.matrices.some((m) => m.part === 'head' && m.pieces.some(({ view }) => view.tensor === graph.tables[0]!.view.tensor));
  const constants = graph.constants.reduce((sum, constant) => sum + constant.width, 0);
  // Absorbed projections share one tensor between two matrices, which together have its elements.
  const matrices = graph.matrices.filter((m) => !(tied && m.part === 'head')).reduce((sum, m) => sum + m.n * m.k, 0);
  const dense = matrices + constants + embedding;
  const perExpert = graph.moe.map((node) => expertElements(node.bank));
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  // Looking a token up reads one row; a tied head reads them all, as an untied one does.
  const active = matrices + constants + (tied ? embedding : graph.hidden) + graph.topK * sum(perExpert);
  return { total: dense + graph.experts * sum(perExpert), active };
}

function countStoredBytes(graph: ModelGraph): Record<Part, number> {
  const bytes: Record<Part, number> = { embedding: 0, attention: 0, dense: 0, shared: 0, router: 0, experts: 0, norms: 0, head: 0 };
  const embedded = new Set(graph.tables.map(({ view }) => view.tensor));
  for (const { view } of graph.tables) bytes.embedding += viewBytes(view);
  for (const { part, pieces } of [...graph.matrices, ...graph.constants])
    for (const { view } of pieces) if (!embedded.has(view.tensor)) bytes[part] += viewBytes(view);
  for (const { bank } of graph.moe)
    for (const { gate, up, down } of bank.views) for (const view of [gate, up, down]) bytes.experts += viewBytes(view);
  return bytes;
}
