import { native } from '@switchyard/native';
import { contiguousPlan, limits, type Plan, SwitchyardError } from '@switchyard/proto';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import type { LoadOptions, Model } from '../model/contract.ts';
import { describeModel } from '../model/families.ts';
import { hostedBy, requirePlanFits } from '../model/hosted-experts.ts';
import { loadModel } from '../model/load.ts';
import { blockTokens } from '../model/memory.ts';
import { compareLogits, firstDifference, firstDifferentBit } from './comparison.ts';
import { type ExpectedCase, readExpectedCases } from './expected-cases.ts';
import { LockstepCluster, type Runner, wholeModel } from './lockstep-cluster.ts';
import { type FedRows, greedy, SequenceRun } from './sequence-run.ts';

/** What counts as equal to the reference: the largest difference of logits over their standard deviation. */
export const logitTolerance = 2e-4;
/** Pieces in which a prompt is fed besides whole and token by token. */
const oddChunks = [1, 3, 7, 2, 13, 5, 31];
/** Rows of one batch: longer prompts are fed in pieces of this. */
const batchRowsMax = 1024;

export interface VerifyOptions {
  /** Model directory with an `expected.safetensors`. */
  dir: string;
  /** The split: `plan`, or experts spread evenly over nodes * workersPerNode. */
  nodes: number;
  workersPerNode: number;
  plan: Plan | null;
  /** What computes, one or more: the whole model on the first, the workers of the split on each in turn. */
  devices: readonly LoadOptions['device'][];
  onProgress: (done: number, total: number, what: string) => void;
}

export type Phase = 'prefill' | 'chunked' | 'decode';

export interface VerifyReport {
  format: 'switchyard-verify';
  version: 1;
  dir: string;
  modelType: string;
  numericClass: string;
  device: { backend: string; isa: string; threads: number };
  /** Of each worker of the split. */
  backends: string[];
  tolerance: number;
  cases: CaseReport[];
  split: SplitReport;
  status: 'pass' | 'fail';
}

export interface CaseReport {
  case: number;
  tokens: number;
  phases: PhaseReport[];
  generated: { expected: number[]; got: number[] /** Index, or -1. */; firstDifference: number };
  ok: boolean;
}

export interface PhaseReport {
  phase: Phase;
  /** Largest logit difference in standard deviations, and where. */
  difference: number;
  position: number;
  token: number;
  /** Null where the reference did not record experts. */
  experts: { compared: number; wrong: number; first: { layer: number; position: number; expected: number[]; got: number[] } | null } | null;
  /** Index of the first logit whose bits are not those of the prefill in one piece, or -1. */
  firstDifferentBit: number;
  ok: boolean;
}

export interface SplitReport {
  nodes: number;
  workers: number;
  cases: { case: number; home: number; phase: Phase; firstDifferentBit: number }[];
  ok: boolean;
}

/**
 * Checks a checkpoint against the logits, experts and greedy tokens that an independent implementation computed for it, with f32 activations: prefill in
 * one piece, in odd pieces, and token by token with the KV cache; then the same split over several workers, whose logits must have the very bits of one.
 * Throws for files that cannot be used; differences are what the report is for.
 */
export async function verifyCheckpoint(options: VerifyOptions): Promise<VerifyReport> {
  const graph = describeModel(openCheckpoint(options.dir));
  const moeLayers = graph.moe.map((node) => node.layer);
  const expected = readExpectedCases(options.dir, { vocab: graph.vocab, topK: graph.topK, moeLayers });
  const plan = options.plan ?? evenPlan(options, { type: graph.modelType, moeLayers, experts: graph.experts });
  requirePlanFits(plan, { moeLayers, experts: graph.experts });
  const progress = progressOf(options, expected, plan.workers.length);
  const { devices } = options;
  const load = (hosted: LoadOptions['hosted'], device: LoadOptions['device']) =>
    loadModel(loadOptions(options.dir, hosted, device, expected));

  const alone = await load(null, devices[0]!);
  const workers: Model[] = [];
  try {
    const runner = wholeModel(alone);
    const results = expected.map((wanted) => {
      progress(`case ${wanted.index}`);
      return runCase(runner, wanted);
    });
    for (let w = 0; w < plan.workers.length; w++) {
      progress(`loading worker ${w + 1} of ${plan.workers.length}`);
      workers.push(await load(hostedBy(plan, w), devices[w % devices.length]!));
    }
    const cluster = new LockstepCluster(workers, plan);
    const split = splitReport(
      plan,
      expected.flatMap((wanted, i) => {
        progress(`case ${wanted.index} over ${plan.workers.length} workers`);
        return splitCase(cluster.runner(i % workers.length), i % workers.length, wanted, results[i]!.whole);
      }),
    );
    const cases = results.map((result) => result.report);
    const { backend, isa, threads } = native.deviceDescribe(alone.device);
    return {
      format: 'switchyard-verify',
      version: 1,
      dir: options.dir,
      modelType: alone.shape.modelType,
      numericClass: alone.shape.numericClass.name,
      device: { backend, isa, threads },
      backends: workers.map((worker) => native.deviceDescribe(worker.device).backend),
      tolerance: logitTolerance,
      cases,
      split,
      status: split.ok && cases.every((report) => report.ok) ? 'pass' : 'fail',
    };
  } finally {
    alone.close();
    for (const worker of workers) worker.close();
  }
}

/** One case on one worker; `whole` is its prefill in one piece. */
function runCase(runner: Runner, wanted: ExpectedCase): { report: CaseReport; whole: FedRows } {
  const length = wanted.tokens.length;
  const whole = new SequenceRun(runner, length).feed(wanted.tokens);
  const got = continueGreedily(runner, wanted);
  const generated = { expected: [...wanted.generated], got, firstDifference: firstDifference(got, wanted.generated) };
  const phases = [
    phaseReport('prefill', runner, wanted, whole, whole),
    phaseReport('chunked', runner, wanted, feedInPieces(runner, wanted, oddChunks), whole),
    phaseReport('decode', runner, wanted, feedInPieces(runner, wanted, [1]), whole),
  ];
  const ok = generated.firstDifference < 0 && phases.every((phase) => phase.ok);
  return { report: { case: wanted.index, tokens: length, phases, generated, ok }, whole };
}

/** As many tokens as are wanted. The prompt is fed again, as of a sequence that grows so long: that may be another rope variant. */
function continueGreedily(runner: Runner, { tokens: prompt, generated }: ExpectedCase): number[] {
  const run = new SequenceRun(runner, prompt.length + Math.max(0, generated.length - 1)); // The last token is not fed.
  const tokens: number[] = [];
  for (let fed: ArrayLike<number> = prompt; tokens.length < generated.length; fed = [tokens.at(-1)!])
    tokens.push(greedy(run.feed(fed).logits, fed.length - 1, runner.model.shape.vocab));
  return tokens;
}

/** Feeds a prompt in pieces of the given sizes, in turn. */
function feedInPieces(runner: Runner, wanted: ExpectedCase, sizes: readonly number[]): FedRows {
  const { tokens } = wanted;
  const { vocab, topK } = runner.model.shape;
  const run = new SequenceRun(runner, tokens.length);
  const all: FedRows = {
    logits: new Float32Array(tokens.length * vocab),
    experts: runner.model.moe.map(() => new Int32Array(tokens.length * topK)),
  };
  for (let from = 0, piece = 0; from < tokens.length; piece++) {
    const to = Math.min(from + sizes[piece % sizes.length]!, tokens.length);
    const fed = run.feed(tokens.subarray(from, to));
    all.logits.set(fed.logits, from * vocab);
    fed.experts.forEach((ids, i) => {
      all.experts[i]!.set(ids, from * topK);
    });
    from = to;
  }
  return all;
}

function phaseReport(phase: Phase, { model }: Runner, wanted: ExpectedCase, got: FedRows, whole: FedRows): PhaseReport {
  const { relative, position, token } = compareLogits(got.logits, wanted.logits, model.shape.vocab);
  const experts = wanted.experts && compareExperts(model, got, wanted.experts);
  const differs = firstDifferentBit(got.logits, whole.logits);
  const ok = relative <= logitTolerance && differs < 0 && (experts === null || experts.wrong === 0);
  return { phase, difference: relative, position, token, experts, firstDifferentBit: differs, ok };
}

function compareExperts({ shape }: Model, got: FedRows, expected: Int32Array): PhaseReport['experts'] {
  const { topK, moeLayers } = shape;
  const rows = expected.length / moeLayers.length / topK;
  let wrong = 0;
  let first: NonNullable<PhaseReport['experts']>['first'] = null;
  for (let i = 0; i < moeLayers.length; i++)
    for (let row = 0; row < rows; row++) {
      const wanted = [...expected.subarray((i * rows + row) * topK, (i * rows + row + 1) * topK)];
      const chosen = [...got.experts[i]!.subarray(row * topK, (row + 1) * topK)];
      if (firstDifference(chosen, wanted) < 0) continue;
      wrong++;
      first ??= { layer: moeLayers[i]!, position: row, expected: wanted, got: chosen };
    }
  return { compared: moeLayers.length * rows, wrong, first };
}

function splitCase(runner: Runner, home: number, wanted: ExpectedCase, alone: FedRows): SplitReport['cases'] {
  const report = (phase: Phase, fed: FedRows) => ({
    case: wanted.index,
    home,
    phase,
    firstDifferentBit: firstDifferentBit(fed.logits, alone.logits),
  });
  return [
    report('prefill', feedInPieces(runner, wanted, [wanted.tokens.length])),
    report('chunked', feedInPieces(runner, wanted, oddChunks)),
    report('decode', feedInPieces(runner, wanted, [1])),
  ];
}

function splitReport(plan: Plan, cases: SplitReport['cases']): SplitReport {
  const nodes = new Set(plan.workers.map((worker) => worker.node)).size;
  return { nodes, workers: plan.workers.length, cases, ok: cases.every((one) => one.firstDifferentBit < 0) };
}

function evenPlan({ nodes, workersPerNode }: VerifyOptions, model: Plan['model']): Plan {
  const workers = nodes * workersPerNode;
  if (!Number.isSafeInteger(workers) || nodes < 1 || workersPerNode < 1 || nodes > limits.nodesMax || workers > limits.workersMax)
    throw new SwitchyardError(
      'invalid_request',
      `${nodes} nodes of ${workersPerNode} workers: at most ${limits.nodesMax} nodes and ${limits.workersMax} workers, at least one of each`,
      { param: 'nodes' },
    );
  return contiguousPlan(
    model,
    Array.from({ length: workers }, (_, w) => ({ name: `worker-${w}`, node: Math.floor(w / workersPerNode) })),
  );
}

function loadOptions(
  dir: string,
  hosted: LoadOptions['hosted'],
  device: LoadOptions['device'],
  expected: readonly ExpectedCase[],
): LoadOptions {
  const longest = Math.max(...expected.map((wanted) => wanted.tokens.length));
  const longestGrown = Math.max(...expected.map((wanted) => wanted.tokens.length + wanted.generated.length));
  const rows = Math.min(longest, batchRowsMax);
  return {
    dir,
    hosted,
    numericClass: { activations: 'f32', experts: 'stored', dense: 'stored', sum: 'exact' },
    device,
    maxBatchRows: rows,
    laneRows: null,
    maxSequences: 1,
    maxLogitRows: rows,
    maxContext: 0,
    kvBlocks: Math.ceil(longestGrown / blockTokens) + 1,
    kvBytes: 0,
    onProgress: () => {},
    signal: null,
  };
}

function progressOf({ onProgress }: VerifyOptions, expected: readonly ExpectedCase[], workers: number): (what: string) => void {
  const total = 2 * expected.length + workers;
  let done = 0;
  return (what) => onProgress(done++, total, what);
}
