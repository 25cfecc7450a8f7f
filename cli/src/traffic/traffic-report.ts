import type { ClusterStatus, WorkerCounters } from '../api/cluster-status.ts';
import { earlierCounters } from './earlier-counters.ts';
import { type LinkFlow, linkFlows } from './link-flows.ts';

/** Bytes and frames from each (row) to each (column). */
export interface FlowMatrix {
  names: string[];
  bytes: number[][];
  frames: number[][];
}

/** Bytes per row and layer against what they should be. */
export interface FormulaCheck {
  /** Bytes of a row on its way to experts, by the model's shape. */
  rowBytes: number;
  /** Of its sum on the way back, as measured: sums take 16, 32 or 64 bits a value, whichever holds them. */
  sumBytes: number;
  /** r x (rowBytes + sumBytes). */
  predicted: number;
  /** What crossed nodes: with headers and the tables that name experts. */
  measured: number;
  /** measured / predicted - 1. */
  deviation: number;
  within: boolean;
  /** What the formula leaves out: headers of frames, and the tables that name experts (null where no request has ended, whose bills tell). */
  headerBytes: number;
  tableBytes: number | null;
  /** measured / (predicted + headers + tables) - 1. */
  wholeDeviation: number | null;
  wholeWithin: boolean | null;
}

export interface TrafficReport {
  format: 'switchyard-traffic';
  version: 1;
  model: string;
  /** Seconds that the figures cover; null: since the workers were started. */
  seconds: number | null;
  workers: FlowMatrix;
  /** The diagonal is what workers of one node exchanged. */
  nodes: FlowMatrix;
  tokens: number;
  /** (row, layer) pairs that homes sent through MoE layers. */
  rows: number;
  /** Per row and layer. */
  interNodeBytes: number;
  intraNodeBytes: number;
  /** Distinct remote nodes that a row visited per layer; null without rows. */
  r: number | null;
  /** Share of (row, expert) pairs that their home's node computed, of requests that ended; null without any. */
  homeShare: number | null;
  formula: FormulaCheck | null;
  /** What the plan promised on its trace, and how far the measured r is from it; null where it promised nothing. */
  plan: { r: number; homeShare: number; drift: number | null } | null;
  /** How homes were chosen since the coordinator began, by reason. */
  homes: Record<string, number>;
}

/** Measured bytes are as computed when they differ by no more. */
const TOLERANCE = 0.05;
/** A frame's header, which every frame has whatever its rows, and what names the expert and weight of a pair of a dispatch (proto/src/frame.ts). */
const HEADER_BYTES = 64;
const PAIR_BYTES = 8;

/** @param before an earlier reading, or null for all since the start. Pure. */
export function trafficReport(before: ClusterStatus | null, after: ClusterStatus, seconds: number | null): TrafficReport {
  const flows = linkFlows(before, after);
  const grown = (pick: (stats: WorkerCounters) => number) =>
    after.workers.reduce((sum, worker) => {
      const earlier = before === null ? null : earlierCounters(before, worker);
      return sum + (worker.stats === null ? 0 : pick(worker.stats)) - (earlier === null ? 0 : pick(earlier));
    }, 0);
  const rows = grown((stats) => stats.rowsDispatched);
  const remoteNodes = grown((stats) => stats.remoteNodesVisited);
  const bytesOf = (crossNode: boolean) => flows.reduce((sum, flow) => sum + (flow.crossNode === crossNode ? flow.bytes : 0), 0);
  const r = rows === 0 ? null : remoteNodes / rows;
  const interNodeBytes = bytesOf(true) / Math.max(1, rows);
  const { prediction } = after.plan;
  const ended = endedTraffic(before, after);
  return {
    format: 'switchyard-traffic',
    version: 1,
    model: after.model,
    seconds,
    workers: matrix(
      after.workers.map(({ name }) => name),
      flows,
      (worker) => worker,
    ),
    nodes: nodeMatrix(after, flows),
    tokens: grown((stats) => stats.promptTokens + stats.generatedTokens),
    rows,
    interNodeBytes,
    intraNodeBytes: bytesOf(false) / Math.max(1, rows),
    r,
    homeShare: ended.visits > 0 ? ended.homeVisits / ended.visits : null,
    formula: checkFormula(after.plan.rowBytes, ended, flows, rows, remoteNodes, interNodeBytes),
    plan:
      prediction === null
        ? null
        : {
            r: prediction.remoteNodes,
            homeShare: prediction.homeShare,
            drift: r === null || prediction.remoteNodes === 0 ? null : r / prediction.remoteNodes - 1,
          },
    homes: after.homes.choices,
  };
}

function checkFormula(
  rowBytes: number | null,
  ended: EndedTraffic,
  flows: readonly LinkFlow[],
  rows: number,
  remoteNodes: number,
  measured: number,
): FormulaCheck | null {
  if (rowBytes === null || rows === 0 || remoteNodes === 0) return null;
  const crossing = flows.filter(({ crossNode }) => crossNode);
  const sums = crossing.reduce((sum, flow) => sum + flow.sumBytes - HEADER_BYTES * flow.sumFrames, 0);
  const sumBytes = Math.max(0, sums) / remoteNodes;
  const predicted = (remoteNodes / rows) * (rowBytes + sumBytes);
  const deviation = measured / predicted - 1;
  const headerBytes = (HEADER_BYTES * crossing.reduce((sum, { frames }) => sum + frames, 0)) / rows;
  const tableBytes = ended.rows > 0 ? (PAIR_BYTES * (ended.visits - ended.homeVisits)) / ended.rows : null;
  const wholeDeviation = tableBytes === null ? null : measured / (predicted + headerBytes + tableBytes) - 1;
  const within = (part: number) => Math.abs(part) <= TOLERANCE;
  return {
    rowBytes,
    sumBytes,
    predicted,
    measured,
    deviation,
    within: within(deviation),
    headerBytes,
    tableBytes,
    wholeDeviation,
    wholeWithin: wholeDeviation === null ? null : within(wholeDeviation),
  };
}

/** Of the requests that ended. */
type EndedTraffic = Pick<ClusterStatus['requests']['traffic'], 'rows' | 'visits' | 'homeVisits'>;

function endedTraffic(before: ClusterStatus | null, { requests: { traffic: now } }: ClusterStatus): EndedTraffic {
  const then = before?.requests.traffic ?? { rows: 0, visits: 0, homeVisits: 0 };
  return { rows: now.rows - then.rows, visits: now.visits - then.visits, homeVisits: now.homeVisits - then.homeVisits };
}

function nodeMatrix(status: ClusterStatus, flows: readonly LinkFlow[]): FlowMatrix {
  const nodeOf = new Map(status.workers.map(({ name, node }) => [name, node]));
  return matrix([...new Set(nodeOf.values())], flows, (worker) => nodeOf.get(worker));
}

function matrix(names: string[], flows: readonly LinkFlow[], groupOf: (worker: string) => string | undefined): FlowMatrix {
  const index = new Map(names.map((name, i) => [name, i]));
  const empty = () => names.map(() => new Array<number>(names.length).fill(0));
  const [bytes, frames] = [empty(), empty()];
  for (const flow of flows) {
    const from = index.get(groupOf(flow.from) ?? '');
    const to = index.get(groupOf(flow.to) ?? '');
    if (from === undefined || to === undefined) continue;
    bytes[from][to] += flow.bytes;
    frames[from][to] += flow.frames;
  }
  return { names, bytes, frames };
}
