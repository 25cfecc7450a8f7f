import type { Plan } from '@switchyard/proto';
import { parseLossy, type RowDType, rowBytes, type Stats } from '@switchyard/proto';
import type { Service } from './api/service.ts';
import type { Config } from './config.ts';
import type { Membership, Place } from './membership/membership.ts';
import { activities } from './metrics/worker-metrics.ts';
import { homeReasons } from './requests/home-choice.ts';
import { readPrediction } from './requests/plan-homes.ts';

/** GET /v1/switchyard/status: the whole cluster in one document (docs/observe.md). Names and numbers only, nothing of any request. */
export function statusDocument(service: Service, plan: Plan, checksum: string): Record<string, unknown> {
  const { membership, dispatcher, config, numericClass } = service;
  return {
    format: 'switchyard-status',
    version: 1,
    software: service.version,
    model: service.modelId,
    modelDir: service.modelDir,
    numericClass,
    contextMax: service.contextMax(),
    fingerprint: service.fingerprint(),
    ready: membership.uncovered === 0 && !service.draining,
    draining: service.draining,
    uncoveredExperts: membership.uncovered,
    plan: {
      epoch: membership.epoch,
      checksum,
      method: plan.provenance?.method ?? null,
      moeLayers: plan.model.moeLayers,
      experts: plan.model.experts,
      topK: service.topK,
      /** Bytes of a row on its way to experts; null where the checkpoint does not say how wide it is. */
      rowBytes: service.hidden === null ? null : rowBytes(rowDType(config, numericClass), service.hidden),
      /** What the plan promises on the trace that it was made from. */
      prediction: readPrediction(plan),
    },
    requests: {
      running: dispatcher.running,
      waiting: dispatcher.waiting,
      runningMax: config.requestsRunningMax,
      waitingMax: config.requestsWaitingMax,
      /** Of sequences that have ended. */
      traffic: dispatcher.traffic,
    },
    homes: {
      choices: Object.fromEntries(homeReasons.map((reason) => [reason, dispatcher.choices.get(reason) ?? 0])),
      known: dispatcher.knownKinds,
    },
    trace: service.trace.summary ?? { on: false },
    workers: membership.places.map((place) => workerStatus(place, membership, dispatcher.loadOf(place.worker))),
  };
}

/** As workers send rows (worker/src/model/numeric-class.ts). */
function rowDType({ lossy, expertDtype }: Config, numericClass: string): RowDType {
  return parseLossy(lossy).wire ?? (numericClass.startsWith('f32') && expertDtype === 'stored' ? 'f32' : 'bf16');
}

function workerStatus(place: Place, { places }: Membership, load: number): Record<string, unknown> {
  const { name, node, state, hello, ready, progress, failure, stats, statsAtMs, replicas, losses } = place;
  const loaded = state === 'serving' || state === 'loaded';
  return {
    name,
    node: hello?.node ?? `n${node}`,
    /** Of the plan. */
    planNode: node,
    worker: place.worker,
    state: state === 'serving' ? 'ready' : state,
    /** 0 to 1. */
    progress: loaded ? 1 : progress === null || progress.total === 0 ? 0 : progress.done / progress.total,
    loading: progress?.what ?? null,
    failure,
    pid: hello?.pid ?? null,
    software: hello?.softwareVersion ?? null,
    device: parsed(hello?.device ?? ''),
    /** Workers that read their weights from the same memory: of one machine, or one GPU. */
    sharesMemoryWith: places.filter((other) => other !== place && other.memory === place.memory).map((other) => other.name),
    addresses: hello?.dataAddresses ?? [],
    experts: replicas,
    residentBytes: stats?.residentBytes ?? ready?.residentBytes ?? 0,
    kvBlocks: ready?.kvBlocks ?? 0,
    load,
    losses,
    statsAgeMs: stats === null ? null : Math.round(performance.now() - statsAtMs),
    stats: stats === null ? null : statsDocument(stats, places),
  };
}

/** Rows of all its experts together, and links that carried something: of a thousand workers each expert and each link would be a million numbers. */
function statsDocument({ links, seconds, expertTokens, ...rest }: Stats, places: readonly Place[]): Record<string, unknown> {
  return {
    ...rest,
    seconds: Object.fromEntries(activities.map((activity, i) => [activity, seconds[i] ?? 0])),
    expertRows: sumOf(expertTokens),
    links: links
      .filter(({ bytesSent, bytesReceived }) => bytesSent > 0 || bytesReceived > 0)
      .map((link) => ({ ...link, peer: places[link.peer]?.name ?? String(link.peer) })),
  };
}

function sumOf(rows: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < rows.length; i++) sum += rows[i];
  return sum;
}

function parsed(device: string): unknown {
  try {
    return JSON.parse(device);
  } catch {
    return null;
  }
}
