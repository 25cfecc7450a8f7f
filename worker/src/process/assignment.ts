import { type Assign, type EngineConfig, limits, type Plan, parseLossy, parsePlan, SwitchyardError, stepDefaults } from '@switchyard/proto';
import { laneRows, logitRows } from '../engine/lanes.ts';
import type { LoadOptions } from '../model/contract.ts';
import { hostedBy } from '../model/hosted-experts.ts';
import { nodeLimitOf } from '../model/node-limit.ts';
import type { WorkerFlags } from './flags.ts';

/** What the coordinator wants of this worker, checked. */
export interface Assignment {
  worker: number;
  epoch: number;
  modelDir: string;
  plan: Plan;
  engine: EngineConfig;
  /** Equal assignments have equal keys: a coordinator that restarts finds its model still loaded. */
  key: string;
}

/** @throws SwitchyardError `bad_plan`, `invalid_request` */
export function readAssignment(message: Assign): Assignment {
  const plan = parsePlan(message.plan);
  if (message.worker >= plan.workers.length) {
    throw new SwitchyardError('bad_plan', `worker is ${message.worker}; the plan has ${plan.workers.length}`, { param: 'worker' });
  }
  const { worker, epoch, modelDir, engine } = message;
  const key = JSON.stringify({ worker, epoch, modelDir, engine, plan });
  return { worker, epoch, modelDir, plan, engine: withDefaults(engine), key };
}

/** Zero means "the worker's default". */
function withDefaults(engine: EngineConfig): EngineConfig {
  return {
    ...engine,
    maxBatchRows: atMost('max_batch_rows', engine.maxBatchRows || stepDefaults.maxBatchRows, limits.frameRowsMax),
    maxSequences: atMost('max_sequences', engine.maxSequences || stepDefaults.maxSequences, limits.requestsRunningMax),
    rowDeadlineMs: engine.rowDeadlineMs || limits.rowDeadlineMs,
    draftMax: atMost('draft_max', engine.draftMax, limits.draftMax),
  };
}

export function loadOptions(
  assignment: Assignment,
  flags: Pick<WorkerFlags, 'backend' | 'isa' | 'threads' | 'cpus'>,
  onProgress: LoadOptions['onProgress'],
  signal: AbortSignal,
): LoadOptions {
  const { engine, modelDir, plan } = assignment;
  const hosted = hostedBy(plan, assignment.worker);
  const hostsAll = hosted.every((experts) => experts.length === plan.model.experts);
  const lossy = parseLossy(engine.lossy);
  return {
    dir: modelDir,
    hosted: hostsAll ? null : hosted,
    numericClass: {
      activations: oneOf('numeric_class', engine.numericClass || 'auto', ['f32', 'bf16', 'auto']),
      experts: oneOf('expert_dtype', engine.expertDtype || 'stored', ['stored', 'int8', 'int4']),
      dense: oneOf('dense_dtype', engine.denseDtype || 'stored', ['stored', 'int8']),
      sum: oneOf('sum_mode', engine.sumMode || 'exact', ['exact', 'fast']),
      wire: lossy.wire,
    },
    nodeLimit: lossy.nodeLimit === null ? null : nodeLimitOf(plan, lossy.nodeLimit),
    device: { backend: flags.backend, isa: flags.isa, threads: flags.threads, cpus: flags.cpus },
    maxBatchRows: engine.maxBatchRows,
    laneRows: hostsAll ? null : laneRows(engine),
    maxSequences: engine.maxSequences,
    maxLogitRows: logitRows(engine),
    maxContext: engine.maxContext,
    kvBlocks: engine.kvBlocks,
    kvBytes: engine.kvBytes,
    onProgress,
    signal,
  };
}

/** The plan must be about the model that was loaded. */
export function checkPlanFits({ plan }: Assignment, shape: { moeLayers: readonly number[]; experts: number }): void {
  const layers = plan.model.moeLayers.join();
  if (layers !== shape.moeLayers.join()) {
    throw new SwitchyardError('bad_plan', `model.moeLayers is ${layers}; the checkpoint has ${shape.moeLayers.join()}`, {
      param: 'moeLayers',
    });
  }
  if (plan.model.experts !== shape.experts) {
    throw new SwitchyardError('bad_plan', `model.experts is ${plan.model.experts}; the checkpoint has ${shape.experts}`, {
      param: 'experts',
    });
  }
}

function oneOf<const T extends string>(field: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((name) => name === value);
  if (found === undefined)
    throw new SwitchyardError('invalid_request', `${field} is ${value}; it must be one of ${allowed.join(', ')}`, { param: field });
  return found;
}

function atMost(field: string, value: number, limit: number): number {
  if (value > limit) throw new SwitchyardError('invalid_request', `${field} is ${value}; the limit is ${limit}`, { param: field });
  return value;
}
