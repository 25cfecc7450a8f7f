import type { Plan, Topology } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import type { FanOutScore } from '../score/fan-out-score.ts';
import type { LoadMatrix } from '../trace/load-matrix.ts';

/** What a device at relative speed 1 can do; `switchyard bench` measures it. */
export interface DeviceModel {
  /** Arithmetic of one row through one expert (2 x 3 x hidden x intermediate for a gated one). */
  flopsPerRow: number;
  flopsPerSecond: number;
  /** Speed at which an expert's weights are read. */
  memoryBytesPerSecond: number;
  /** Attention, norms and the rest of one layer, for one token of the home's batch; and what a layer costs with no token at all. */
  densePerTokenSeconds: number;
  layerOverheadSeconds: number;
}

/** A machine of the size this runtime is developed on: AVX-512 bf16 on a few cores. To be replaced by a measurement. */
export const uncalibratedDevice: DeviceModel = {
  flopsPerRow: 2 * 3 * 2880 * 2880,
  flopsPerSecond: 200e9,
  memoryBytesPerSecond: 20e9,
  densePerTokenSeconds: 5e-6,
  layerOverheadSeconds: 5e-6,
};

export interface StepTime {
  seconds: number;
  /** Sums over layers. */
  networkSeconds: number;
  expertSeconds: number;
  denseSeconds: number;
  /** Bytes that cross nodes, per token and step, both ways, all layers. */
  bytesPerToken: number;
}

/**
 * Predicted time of one step over `tokens` tokens spread over all homes: a prefill chunk or one decode step. Per layer
 *
 *   dense + dispatch + slowest worker + combine
 *
 * with links as alpha + bytes x beta: a node's adapter carries the sum of its rows, each node pair at its own speed; and workers on a roofline: rows x flops, or the
 * weights of the experts that the step touches, whichever takes longer. In decode few tokens touch many experts, so weights dominate and balance per token
 * matters more than bytes.
 */
export function predictStep(
  score: FanOutScore,
  plan: Plan,
  cluster: Cluster,
  topology: Topology,
  loads: LoadMatrix,
  device: DeviceModel,
  tokens: number,
): StepTime {
  const { nodes, speedOf } = cluster;
  const layers = plan.replicas.length;
  const workers = cluster.workers.length;
  const linkOf = (a: number, b: number) => topology.links?.find((link) => link.from === a && link.to === b) ?? topology.interNode;
  // linkRows: rows per token from home a to node b, all layers; every home holds its share of the tokens already counted in it.
  const way = (rowBytes: number) => {
    let slowest = 0;
    for (let a = 0; a < nodes; a++) {
      let out = 0;
      let into = 0;
      let alpha = 0;
      for (let b = 0; b < nodes; b++) {
        if (a === b) continue;
        const sent = (score.linkRows[a * nodes + b] / layers) * tokens;
        const received = (score.linkRows[b * nodes + a] / layers) * tokens;
        out += (sent * rowBytes) / linkOf(a, b).bandwidth;
        into += (received * rowBytes) / linkOf(b, a).bandwidth;
        // A link that carries less than a row per step is used by only some steps.
        alpha = Math.max(alpha, linkOf(a, b).latency * Math.min(1, sent));
      }
      slowest = Math.max(slowest, alpha + Math.max(out, into));
    }
    return slowest;
  };
  const network = way(topology.dispatchRowBytes) + way(topology.combineRowBytes) + (workers > nodes ? 2 * topology.intraNode.latency : 0);
  let expertSeconds = 0;
  let seconds = 0;
  const dense = device.layerOverheadSeconds + device.densePerTokenSeconds * Math.ceil(tokens / workers);
  for (let l = 0; l < layers; l++) {
    const perToken = score.rows.subarray(l * workers, (l + 1) * workers);
    const touched = new Float64Array(workers);
    plan.replicas[l].forEach((list, e) => {
      const chance = loads.counts[l * loads.experts + e] / score.tokens / list.length;
      for (const w of list) touched[w] += 1 - (1 - Math.min(1, chance)) ** tokens;
    });
    let slowest = 0;
    for (let w = 0; w < workers; w++) {
      const rows = (perToken[w] / score.tokens) * tokens;
      const compute = (rows * device.flopsPerRow) / device.flopsPerSecond;
      const weights = (touched[w] * topology.expertBytes) / device.memoryBytesPerSecond;
      slowest = Math.max(slowest, Math.max(compute, weights) / speedOf[w]);
    }
    expertSeconds += slowest;
    seconds += dense + (score.remoteNodes > 0 ? network : 0) + slowest;
  }
  return {
    seconds,
    networkSeconds: score.remoteNodes > 0 ? network * layers : 0,
    expertSeconds,
    denseSeconds: dense * layers,
    bytesPerToken: score.remoteNodes * layers * (topology.dispatchRowBytes + topology.combineRowBytes),
  };
}
