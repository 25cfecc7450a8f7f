import { promptLanes, type Topology } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import type { HostModel } from './host-model.ts';
import { decodeSteps, promptSteps } from './planned-steps.ts';
import { type PredictedSteps, simulateSteps } from './step-simulation.ts';

/**
 * A machine of the size this runtime is developed on: 200 GFLOP/s of bf16, in which an expert's row is an operation for each byte of the expert, and weights read at
 * 20 GB/s. To be replaced by a measurement.
 */
export function uncalibratedHost({ expertBytes }: Pick<Topology, 'expertBytes'>): HostModel {
  return {
    step: { fixed: 0, perRow: 0, perToken: 0 },
    segment: { fixed: 5e-6, perRow: 5e-6, perContext: 0 },
    experts: { fixed: 0, perRow: expertBytes / 200e9, perExpert: expertBytes / 20e9 },
    frame: { fixed: 0, perByte: 0 },
    wake: 0,
    outside: { perRequest: 0, perStep: 0, perToken: 0 },
  };
}

export interface StepTimeWorkload {
  trace: RoutingTrace;
  replicas: readonly (readonly (readonly number[])[])[];
  /** Home worker of each sequence, (sequences). */
  homes: Int32Array;
  cluster: Cluster;
  topology: Topology;
  host: HostModel;
  seed: number;
}

/**
 * Decode steps of each home that are played through, for what one step's tokens are differs by a tenth; fewer where one step is as much work as many: of 64 workers
 * and 58 layers one, in a second or two.
 */
const decodeStepsMax = 4;
const layersPlayedMax = 4096;

/** A frame's header, and what it says of one (row, expert) pair. */
const headerBytes = 64;
const pairBytes = 8;

/** A decode step of so many streams of the trace on their homes; in `secondsPerStep`. */
export function predictDecode(workload: StepTimeWorkload, streams: number): PredictedSteps {
  const { trace, homes, cluster, seed } = workload;
  const most = Math.floor(layersPlayedMax / (trace.moeLayers.length * cluster.workers.length));
  const steps = Math.max(1, Math.min(decodeStepsMax, most));
  return play(workload, decodeSteps(trace, homes, cluster, streams, steps, seed), 1);
}

/** Prompts of so many tokens in all, spread over the homes, until the last is through; in `seconds`. */
export function predictPrefill(workload: StepTimeWorkload, tokens: number): PredictedSteps {
  const { trace, homes, cluster, seed } = workload;
  return play(workload, promptSteps(trace, homes, cluster, tokens, seed), promptLanes);
}

function play(
  { trace, replicas, cluster, topology, host }: StepTimeWorkload,
  steps: ReturnType<typeof decodeSteps>,
  stepsInFlight: number,
) {
  const { dispatchRowBytes, combineRowBytes } = topology;
  const frames = { headerBytes, dispatchRowBytes, pairBytes, combineRowBytes };
  return simulateSteps({ trace, replicas, cluster, links: topology, host, frames, coreGroups: null, steps, stepsInFlight });
}
