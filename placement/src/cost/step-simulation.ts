import { FrameRhythm, limits, type Topology } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { layerRule } from '../score/fan-out-score.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import type { CoreGroup, FrameCost, FrameSizes, HostModel, PlannedStep } from './host-model.ts';
import { instant, isIdle, type Job, type Server, SharedCores, server } from './shared-cores.ts';

/** What is to be predicted. */
export interface StepWorkload {
  trace: RoutingTrace;
  replicas: readonly (readonly (readonly number[])[])[];
  cluster: Cluster;
  links: Pick<Topology, 'interNode' | 'intraNode' | 'links'>;
  host: HostModel;
  frames: FrameSizes;
  /** Which workers share which cores; null: each has its own. */
  coreGroups: readonly CoreGroup[] | null;
  /** Steps of each home worker, one after the other. A home without steps only serves others. */
  steps: readonly (readonly PlannedStep[])[];
  /** Steps that a home has on the way at a time: of prompts several, so that some are computed while the rows of others are away; each keeps behind the one before it. */
  stepsInFlight: number;
}

export interface PredictedSteps {
  /** Mean over homes of the time until its last step's end, over its steps. */
  secondsPerStep: number;
  /** Until the last token is with whoever asked for it. */
  seconds: number;
  /** Distinct remote nodes per row and layer. */
  remoteNodes: number;
  /** Bytes of frames between nodes, both ways, per row over all layers. */
  bytesPerRow: number;
  /** Share of the time in which each node's link was sending, (nodes). */
  sending: number[];
  /** Processor time of each worker, (workers). */
  busySeconds: number[];
  /** From the moment at which a home has sent a frame until its answer is back, on average. */
  roundTripSeconds: number;
  /** How often each worker began to work after it had had nothing to do, (workers). */
  wakes: number[];
}

/**
 * Plays steps through: every home runs its layers one after the other, sends rows to the nodes that the router's own rule chooses, serves the rows of others as they
 * come, and goes on when its own are back. There is no global step, so homes wait for one another only where one's rows wait behind another's. Deterministic: it
 * reads no clock and draws no random number.
 *
 * What it knows: a worker does one thing at a time, its own steps before rows of others, and frames of one layer that wait together are computed together; the gateway
 * of a node sends on what its neighbours compute, and adds their sums; workers on the same cores share them; a node's link sends and receives at the same time, each at
 * its bit rate, one frame after another; a frame arrives a latency after it was sent. What it leaves out: lost packets and garbage collection.
 */
export function simulateSteps(workload: StepWorkload): PredictedSteps {
  return new Simulation(workload).run();
}

/** A step on its way. */
interface Step {
  home: number;
  planned: PlannedStep;
  /** Segments that have run. */
  segments: number;
  ahead: Step | null;
  /** What the step behind it waits to do. */
  behind: (() => void) | null;
}

/** (row, expert) pairs of a layer that one worker computes, or one frame asks for. */
class Part {
  rows = 0;
  pairs = 0;
  readonly experts = new Set<number>();
  private lastRow = -1;

  /** Rows come in ascending order, so a row that is here already is the last one. */
  add(row: number, expert: number): void {
    if (row !== this.lastRow) this.rows++;
    this.lastRow = row;
    this.pairs++;
    this.experts.add(expert);
  }
}

/** What one frame of a home asks for: of another worker of its node, or of another node's workers. */
class Lane {
  readonly all = new Part();
  readonly workers = new Map<number, Part>();

  add(row: number, expert: number, worker: number): void {
    this.all.add(row, expert);
    const own = this.workers.get(worker) ?? new Part();
    this.workers.set(worker, own);
    own.add(row, expert);
  }

  /** Whom the frame is sent to: the worker with most of its pairs; of equals, the lowest number. */
  get gateway(): number {
    const [[gateway]] = [...this.workers].sort(([a, { pairs: ofA }], [b, { pairs: ofB }]) => ofB - ofA || a - b);
    return gateway;
  }
}

/** A part that waits to be served. */
interface Serving {
  layer: number;
  part: Part;
  receiveSeconds: number;
  sendSeconds: number;
  answer: () => void;
}

const uncrowded = { beside: 1, sharing: 1 };

class Simulation {
  private readonly w: StepWorkload;
  private readonly layers: number;
  private readonly rules: ReturnType<typeof layerRule>[];
  private readonly servers: Server[];
  /** When each worker waits awake: by the rule that workers have. */
  private readonly rhythms: FrameRhythm[];
  private readonly outside = server();
  /** The programs that carry frames, each with what a frame costs it, by node of the sender. */
  private readonly carriers: ({ cost: FrameCost; server: Server } | null)[];
  private requestsIn = 0;
  private waitingForRequests: Step[] = [];
  private readonly groups: SharedCores[];
  private readonly serving = new Map<Job, Serving>();
  private readonly sendsUntil: Float64Array;
  private readonly receivesUntil: Float64Array;
  private readonly sendingSeconds: Float64Array;
  private readonly arrivals: { at: number; order: number; deliver: () => void }[] = [];
  private now = 0;
  private lastToken = 0;
  private order = 0;
  private remoteNodes = 0;
  private rowLayers = 0;
  private bytes = 0;
  private roundTrips = 0;
  private roundTripSeconds = 0;
  private readonly load: Float64Array;
  /** From node to node, where links are listed one by one. */
  private readonly linkOf: ReadonlyMap<number, Topology['interNode']>;
  private readonly homes: { begun: Step[]; endedAt: number }[];

  constructor(workload: StepWorkload) {
    this.w = workload;
    const { trace, replicas, cluster } = workload;
    this.layers = trace.moeLayers.length;
    this.linkOf = new Map(workload.links.links?.map((link) => [link.from * cluster.nodes + link.to, link] as const));
    this.rules = replicas.map((layer) => layerRule(layer, cluster));
    this.servers = Array.from(cluster.speedOf, (speed) => server({ speed, wake: workload.host.wake }));
    this.rhythms = this.servers.map(() => new FrameRhythm());
    for (const one of this.servers) one.onBegin = (job) => this.merge(one, job);
    const alone = (worker: number): CoreGroup => ({ cores: 1, crowdedSpeed: uncrowded, workers: [worker], outside: false, carrier: null });
    const groups = workload.coreGroups ?? [...cluster.workers.keys()].map(alone);
    this.carriers = new Array(cluster.nodes).fill(null);
    this.groups = groups.map(({ cores, crowdedSpeed, workers, outside, carrier }) => {
      const carrying = carrier === null ? null : { cost: carrier, server: server({ first: true }) };
      for (const worker of workers) this.carriers[cluster.nodeOf[worker]] = carrying;
      return new SharedCores(cores, crowdedSpeed, [
        ...workers.map((worker) => this.servers[worker]),
        ...(outside ? [this.outside] : []),
        ...(carrying === null ? [] : [carrying.server]),
      ]);
    });
    if (!groups.some(({ outside }) => outside)) this.groups.push(new SharedCores(1, uncrowded, [this.outside]));
    this.sendsUntil = new Float64Array(cluster.nodes);
    this.receivesUntil = new Float64Array(cluster.nodes);
    this.sendingSeconds = new Float64Array(cluster.nodes);
    this.load = new Float64Array(cluster.workers.length);
    this.homes = cluster.workers.map(() => ({ begun: [], endedAt: 0 }));
  }

  run(): PredictedSteps {
    const { steps, host } = this.w;
    const requests = Math.max(0, ...steps.flat().map(({ afterRequests }) => afterRequests));
    for (let i = 0; i < requests; i++) give(this.outside, [{ seconds: host.outside.perRequest, done: () => this.requestCame() }]);
    steps.forEach((own, home) => {
      for (let i = 0; i < Math.min(own.length, this.w.stepsInFlight); i++) this.beginStep(home);
    });
    for (;;) {
      let next = this.arrivals.length > 0 ? this.arrivals[0].at : Infinity;
      for (const group of this.groups) {
        group.settle(this.now);
        next = Math.min(next, group.due);
      }
      if (next === Infinity) break;
      this.now = Math.max(this.now, next);
      for (const group of this.groups) if (group.due <= this.now + instant) group.finish(this.now);
      while (this.arrivals.length > 0 && this.arrivals[0].at <= this.now + instant) this.arrivals.shift()!.deliver();
    }
    const perStep = steps.flatMap((own, home) => (own.length > 0 ? [this.homes[home].endedAt / own.length] : []));
    const rows = this.rowLayers / this.layers;
    return {
      secondsPerStep: perStep.reduce((a, b) => a + b, 0) / Math.max(1, perStep.length),
      seconds: this.lastToken,
      remoteNodes: this.rowLayers > 0 ? this.remoteNodes / this.rowLayers : 0,
      bytesPerRow: rows > 0 ? this.bytes / rows : 0,
      busySeconds: this.servers.map(({ onCore }) => onCore),
      roundTripSeconds: this.roundTrips > 0 ? this.roundTripSeconds / this.roundTrips : 0,
      wakes: this.servers.map(({ wakes }) => wakes),
      sending: Array.from(this.sendingSeconds, (s) => s / Math.max(this.now, 1e-12)),
    };
  }

  /** Begins the home's next step, if one is left. */
  private beginStep(home: number): void {
    const { steps } = this.w;
    const { begun } = this.homes[home];
    if (begun.length === steps[home].length) return;
    const planned = steps[home][begun.length];
    const step: Step = { home, planned, segments: 0, ahead: begun.at(-1) ?? null, behind: null };
    begun.push(step);
    if (planned.afterRequests > this.requestsIn) this.waitingForRequests.push(step);
    else this.fillStep(step);
  }

  private requestCame(): void {
    this.requestsIn++;
    const due = this.waitingForRequests.filter(({ planned }) => planned.afterRequests <= this.requestsIn);
    this.waitingForRequests = this.waitingForRequests.filter((step) => !due.includes(step));
    for (const step of due) this.fillStep(step);
  }

  private fillStep(step: Step): void {
    const { fixed, perRow } = this.w.host.step;
    this.enqueue(step.home, [{ seconds: fixed + perRow * step.planned.rows.length, done: () => this.runLayer(step, 0) }]);
  }

  private endStep(step: Step): void {
    const { perStep, perToken } = this.w.host.outside;
    const { tokens } = step.planned;
    this.passed(step, Infinity);
    this.homes[step.home].endedAt = this.now;
    this.lastToken = Math.max(this.lastToken, this.now);
    if (tokens > 0) {
      const told = () => {
        this.lastToken = Math.max(this.lastToken, this.now);
      };
      give(this.outside, [{ seconds: perStep + perToken * tokens, done: told }]);
    }
    this.beginStep(step.home);
  }

  /** The step has so many segments behind it: the one that follows may go on. */
  private passed(step: Step, segments: number): void {
    step.segments = segments;
    const { behind } = step;
    step.behind = null;
    behind?.();
  }

  private runLayer(step: Step, layer: number): void {
    const { host } = this.w;
    const { home, planned, ahead } = step;
    const { rows } = planned;
    if (ahead !== null && ahead.segments <= layer) {
      ahead.behind = () => this.runLayer(step, layer);
      return;
    }
    if (layer === this.layers) {
      this.enqueue(home, [{ seconds: host.step.perToken * planned.tokens, done: () => this.endStep(step) }]);
      return;
    }
    const segment = host.segment.fixed + host.segment.perRow * rows.length + host.segment.perContext * planned.contextTokens;
    const { local, lanes } = this.partition(home, rows, layer);
    const job: Job['parts'] = [];
    let waiting = lanes.length + 1;
    const landed = () => {
      if (--waiting === 0) this.runLayer(step, layer + 1);
    };
    job.push({ seconds: segment, done: () => this.passed(step, layer + 1) });
    for (const lane of lanes) {
      const to = lane.gateway;
      const serve = (answer: () => void) =>
        lane.workers.size > 1 ? this.relay(to, layer, lane, answer) : this.serve(to, layer, lane.all, this.endsOf(lane.all), answer);
      const returned = (seconds: number) => {
        this.roundTrips++;
        this.roundTripSeconds += seconds;
      };
      job.push(this.exchange(home, to, lane.all, { serve, returned, landed }));
    }
    job.push({ seconds: local.pairs > 0 ? this.expertSeconds(local.pairs, local.experts.size) : 0, done: landed });
    this.enqueue(home, job);
  }

  /** Which rows and pairs of a layer go where, by the router's rule: one frame to each other node, and one to each other worker of the own node. */
  private partition(home: number, rows: readonly number[], layer: number) {
    const { trace, cluster } = this.w;
    const { topK } = trace;
    const local = new Part();
    const lanes = new Map<number, Lane>();
    const experts = new Int32Array(topK);
    const out = new Int32Array(topK);
    const homeNode = cluster.nodeOf[home];
    this.load.fill(0);
    rows.forEach((token, row) => {
      const base = (token * this.layers + layer) * topK;
      let count = 0;
      for (let k = 0; k < topK; k++) if (trace.ids[base + k] !== NO_EXPERT) experts[count++] = trace.ids[base + k];
      this.rules[layer](experts, count, home, this.load, out);
      const visited = new Set<number>();
      for (let k = 0; k < count; k++) {
        const worker = out[k];
        const node = cluster.nodeOf[worker];
        if (worker === home) {
          local.add(row, experts[k]);
          continue;
        }
        this.load[worker]++;
        // Workers of the own node are below 0.
        const destination = node === homeNode ? -1 - worker : node;
        const lane = lanes.get(destination) ?? new Lane();
        lanes.set(destination, lane);
        lane.add(row, experts[k], worker);
        if (node !== homeNode) visited.add(node);
      }
      this.remoteNodes += visited.size;
      this.rowLayers++;
    });
    return { local, lanes: [...lanes.values()] };
  }

  /** A frame that one worker sends another, and the sums that come back. `serve` is called when it is there, `returned` when whoever sent it takes the sums up. */
  private exchange(
    from: number,
    to: number,
    part: Part,
    ends: { serve: (answer: () => void) => void; returned?: (seconds: number) => void; landed: () => void },
  ): Job['parts'][number] {
    const { dispatch, combine } = this.bytesOf(part);
    return {
      seconds: this.frameSeconds(dispatch),
      done: () => {
        const sentAt = this.now;
        const answer = () => {
          this.sent(to, combine);
          this.transfer(to, from, combine, () => {
            this.arrived(from, combine);
            this.enqueue(from, [
              { seconds: 0, done: () => ends.returned?.(this.now - sentAt) },
              { seconds: this.frameSeconds(combine), done: ends.landed },
            ]);
          });
        };
        this.sent(from, dispatch);
        this.transfer(from, to, dispatch, () => {
          this.arrived(to, dispatch);
          ends.serve(answer);
        });
      },
    };
  }

  /** A worker computes its part when nothing of its own is to be done. */
  private serve(
    worker: number,
    layer: number,
    part: Part,
    ends: Pick<Serving, 'receiveSeconds' | 'sendSeconds'>,
    answer: () => void,
  ): void {
    const job: Job = { parts: [{ seconds: 0, done: () => {} }] };
    this.serving.set(job, { layer, part, ...ends, answer });
    this.servers[worker].cores!.give(this.servers[worker], job, 'serving');
  }

  /** A frame whose pairs several workers of a node compute: its gateway sends on what the others do, at once, and answers when it has added their sums to its own. */
  private relay(gateway: number, layer: number, { all, workers }: Lane, answer: () => void): void {
    const { receiveSeconds, sendSeconds } = this.endsOf(all);
    let missing = workers.size;
    const landed = () => {
      if (--missing === 0) this.enqueue(gateway, [{ seconds: sendSeconds, done: answer }]);
    };
    const sendOn: Job['parts'] = [];
    for (const [worker, part] of workers) {
      const serve = (sums: () => void) => this.serve(worker, layer, part, this.endsOf(part), sums);
      if (worker === gateway) this.serve(worker, layer, part, { receiveSeconds: 0, sendSeconds: 0 }, landed);
      else sendOn.push(this.exchange(gateway, worker, part, { serve, landed }));
    }
    this.enqueue(gateway, [{ seconds: receiveSeconds, done: () => {} }, ...sendOn]);
  }

  private bytesOf({ rows, pairs }: Part): { dispatch: number; combine: number } {
    const { headerBytes, dispatchRowBytes, pairBytes, combineRowBytes } = this.w.frames;
    return { dispatch: headerBytes + rows * dispatchRowBytes + pairs * pairBytes, combine: headerBytes + rows * combineRowBytes };
  }

  /** What the frame of a part, and its answer, cost whoever serves it. */
  private endsOf(part: Part): Pick<Serving, 'receiveSeconds' | 'sendSeconds'> {
    const { dispatch, combine } = this.bytesOf(part);
    return { receiveSeconds: this.frameSeconds(dispatch), sendSeconds: this.frameSeconds(combine) };
  }

  private sent(worker: number, bytes: number): void {
    if (bytes <= limits.lingerFrameBytesMax) this.rhythms[worker].moved(1000 * this.now);
  }

  /** Whether the worker has slept until this frame came decides how soon it begins. */
  private arrived(worker: number, bytes: number): void {
    const one = this.servers[worker];
    const rhythm = this.rhythms[worker];
    const slept = isIdle(one) && 1000 * this.now > rhythm.untilMs;
    one.asleep = slept;
    if (bytes <= limits.lingerFrameBytesMax) rhythm.arrived(1000 * this.now, slept);
  }

  /** A job that serves begins: the frames of its layer that wait are computed with it. */
  private merge(one: Server, job: Job): void {
    const first = this.serving.get(job);
    if (first === undefined) return;
    const group = [first];
    one.serving = one.serving.filter((other) => {
      const serving = this.serving.get(other)!;
      if (serving.layer !== first.layer) return true;
      group.push(serving);
      this.serving.delete(other);
      return false;
    });
    this.serving.delete(job);
    const experts = new Set(group.flatMap(({ part }) => [...part.experts]));
    const pairs = group.reduce((sum, { part }) => sum + part.pairs, 0);
    const receive = group.reduce((sum, serving) => sum + serving.receiveSeconds, 0);
    job.parts = [
      { seconds: receive + this.expertSeconds(pairs, experts.size), done: () => {} },
      ...group.map((serving) => ({ seconds: serving.sendSeconds, done: serving.answer })),
    ];
  }

  /** A frame from a worker to another: by the program that carries it, if there is one, and over both nodes' links. Within a node nothing waits for its link. */
  private transfer(sender: number, receiver: number, bytes: number, deliver: () => void): void {
    const { cluster, links } = this.w;
    const from = cluster.nodeOf[sender];
    const to = cluster.nodeOf[receiver];
    if (from === to) {
      this.after(links.intraNode.latency + bytes / links.intraNode.bandwidth, deliver);
      return;
    }
    this.bytes += bytes;
    const carrier = this.carriers[from];
    const onTheWay = () => this.overLinks(from, to, bytes, deliver);
    if (carrier === null) onTheWay();
    else give(carrier.server, [{ seconds: carrier.cost.fixed + carrier.cost.perByte * bytes, done: onTheWay }]);
  }

  /** Each node's link is busy with one frame at a time, each way. */
  private overLinks(from: number, to: number, bytes: number, deliver: () => void): void {
    const { links } = this.w;
    const link = this.linkOf.get(from * this.w.cluster.nodes + to) ?? links.interNode;
    const wire = bytes / link.bandwidth;
    const start = Math.max(this.now, this.sendsUntil[from]);
    this.sendsUntil[from] = start + wire;
    this.sendingSeconds[from] += wire;
    const received = Math.max(start, this.receivesUntil[to]);
    this.receivesUntil[to] = received + wire;
    this.after(received + wire + link.latency - this.now, deliver);
  }

  private frameSeconds(bytes: number): number {
    return this.w.host.frame.fixed + bytes * this.w.host.frame.perByte;
  }

  private expertSeconds(pairs: number, distinct: number): number {
    const { fixed, perRow, perExpert } = this.w.host.experts;
    return fixed + pairs * perRow + distinct * perExpert;
  }

  private enqueue(worker: number, parts: Job['parts']): void {
    give(this.servers[worker], parts);
  }

  private after(seconds: number, deliver: () => void): void {
    const event = { at: this.now + seconds, order: this.order++, deliver };
    let i = this.arrivals.length;
    while (
      i > 0 &&
      (this.arrivals[i - 1].at > event.at || (this.arrivals[i - 1].at === event.at && this.arrivals[i - 1].order > event.order))
    )
      i--;
    this.arrivals.splice(i, 0, event);
  }
}

function give(to: Server, parts: Job['parts']): void {
  to.cores!.give(to, { parts });
}
