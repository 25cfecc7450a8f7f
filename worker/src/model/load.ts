import { setImmediate } from 'node:timers/promises';
import { native } from '@switchyard/native';
import { SwitchyardError } from '@switchyard/proto';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import { MappedFiles } from '../checkpoint/mapped-files.ts';
import { CompiledModel } from './compiled-model.ts';
import type { LoadOptions, Model } from './contract.ts';
import { describeModel } from './families.ts';
import type { ModelGraph } from './graph.ts';
import { planContext } from './memory.ts';
import { checkNodeLimit } from './node-limit.ts';
import { resolveNumericClass } from './numeric-class.ts';
import { type MemoryPlan, type PackingStep, Residency } from './residency.ts';

/** Packing this much takes some milliseconds: the event loop gets a turn after it. */
const bytesPerTurn = 16 * 1024 * 1024;
/** Tiny tensors cost by the piece. */
const stepsPerTurn = 16;

/**
 * Loads a checkpoint onto a device of its own: checks every header before it reads a weight, packs weights while the event loop runs on, and lets go of
 * the files except those an embedding table reads. Throws `bad_checkpoint`, `invalid_request` for options out of range, `cancelled` on abort; whatever was
 * allocated until then is freed.
 */
export async function loadModel(options: LoadOptions): Promise<Model> {
  const graph = describeModel(openCheckpoint(options.dir));
  const numericClass = resolveNumericClass(graph, options.numericClass, options.nodeLimit?.nodes ?? null);
  const plan: MemoryPlan = {
    numericClass,
    laneRows: options.laneRows ?? [options.maxBatchRows],
    maxLogitRows: options.maxLogitRows,
    hosted: hostedExperts(graph, options.hosted),
    nodeLimit: options.nodeLimit ?? null,
    ...planContext(graph, options, numericClass),
  };
  if (plan.nodeLimit !== null) checkNodeLimit(plan.nodeLimit, graph);
  const files = new MappedFiles(native);
  const device = native.deviceOpen(options.device);
  try {
    const residency = new Residency(native, device, files, graph, plan);
    await pack(residency.packingSteps(), options);
    files.release();
    residency.openTables();
    return new CompiledModel(graph, residency, device, files, plan, options);
  } catch (cause) {
    native.deviceClose(device);
    files.release();
    throw cause;
  }
}

async function pack(steps: readonly PackingStep[], { onProgress, signal }: LoadOptions): Promise<void> {
  const total = steps.reduce((sum, step) => sum + step.bytes, 0);
  let done = 0;
  let turnBytes = 0;
  let turnSteps = 0;
  for (const step of steps) {
    if (signal?.aborted) throw new SwitchyardError('cancelled', 'loading was cancelled', { cause: signal.reason });
    step.run();
    done += step.bytes;
    turnBytes += step.bytes;
    if (turnBytes < bytesPerTurn && ++turnSteps < stepsPerTurn) continue;
    onProgress(done, total, step.what);
    await setImmediate();
    turnBytes = 0;
    turnSteps = 0;
  }
  onProgress(total, total, 'ready');
}

/** hosted[i], or every expert where null. Ids are checked, and sorted so that slots do not depend on the order in which they were named. */
function hostedExperts(graph: ModelGraph, hosted: LoadOptions['hosted']): number[][] {
  if (hosted === null) return graph.moe.map(() => Array.from({ length: graph.experts }, (_, e) => e));
  if (hosted.length !== graph.moe.length) throw invalidHosted(`has ${hosted.length} layers, the model ${graph.moe.length} with experts`);
  return hosted.map((ids, i) => {
    const unique = [...new Set(ids)].sort((a, b) => a - b);
    const wrong = unique.find((id) => !Number.isSafeInteger(id) || id < 0 || id >= graph.experts);
    if (wrong !== undefined) throw invalidHosted(`of MoE layer ${i} names expert ${wrong}; experts are 0 to ${graph.experts - 1}`);
    return unique;
  });
}

function invalidHosted(problem: string): SwitchyardError {
  return new SwitchyardError('bad_plan', `hosted ${problem}`, { param: 'hosted' });
}
