import type { TraceSequence } from '@switchyard/proto';
import { limits, SwitchyardError } from '@switchyard/proto';
import { mix32 } from '../random.ts';

/** Marks a choice that the router did not make (variable top-k). */
export const NO_EXPERT = 0xffff;

/** A routing trace in memory. Tokens of one sequence are consecutive and in the order of their positions. */
export interface RoutingTrace {
  model: string;
  /** As checkpoints and plans name the kind of model; absent: by `model`. */
  modelType?: string;
  /** Index in the model of each MoE layer, (layers). */
  moeLayers: number[];
  experts: number;
  topK: number;
  tokens: number;
  /** Tokens of the trace of whose sequences this is a sample; absent where it is the whole. */
  wholeTokens?: number;
  /** Expert ids in descending router score, (tokens, layers, topK); NO_EXPERT where fewer were chosen. */
  ids: Uint16Array;
  /** Index into `sequences`, (tokens). */
  sequenceOf: Uint32Array;
  /** 1 where the token was generated, 0 in a prompt, (tokens). */
  generated: Uint8Array;
  sequences: TraceSequence[];
  /** Groups of consecutive experts that the model's router keeps a token inside a few of; absent where it has none or the format does not say. */
  groups?: number;
}

/** Shape of a trace, as far as its format knows it before the first record. */
export interface TraceShape {
  model: string;
  modelType?: string;
  moeLayers: number[];
  experts: number;
  topK: number;
  groups?: number;
}

export interface TraceBounds {
  /** Tokens held in memory at most. */
  tokensMax: number;
  /** When full: keep a seeded half of the sequences and go on (the default), or refuse. */
  whenFull: 'thin' | 'refuse';
}

/** 24 layers x top-4 x 2 bytes x 400,000 tokens is 77 MB; DeepSeek-V3's 58 x 8 is 371 MB. */
export const defaultTraceBounds: TraceBounds = { tokensMax: 400_000, whenFull: 'thin' };

/** Highest number of a layer that a plan may name. */
export const layerMax = 65_535;

/** Positions are kept in 32 bits. */
export const positionMax = 0xffff_ffff;

/** Sequences that one trace may name. */
export const sequencesMax = 10_000_000;

/** An error that says where in which input it happened. */
export function badTrace(source: string, place: string, problem: string, cause?: unknown): SwitchyardError {
  return new SwitchyardError('invalid_request', `${source}: ${place}: ${problem}`, { param: 'trace', cause });
}

/** A value as errors show it: its beginning, for a record may be megabytes long. */
export function shown(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? 'absent');
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

export function checkShape(shape: TraceShape, source: string): void {
  const refuse = (field: string, value: number, max: number) => {
    if (!Number.isInteger(value) || value < 1 || value > max)
      throw badTrace(source, 'header', `${field} is ${shown(value)}, must be an integer from 1 to ${max}`);
  };
  refuse('experts', shape.experts, limits.expertsMax);
  refuse('topK', shape.topK, limits.topKMax);
  refuse('number of MoE layers', shape.moeLayers.length, limits.moeLayersMax);
  shape.moeLayers.forEach((layer, l) => {
    const above = l === 0 ? -1 : shape.moeLayers[l - 1];
    if (!Number.isInteger(layer) || layer <= above || layer > layerMax)
      throw badTrace(source, 'header', `moeLayers[${l}] is ${shown(layer)}, must be an integer above ${above}, at most ${layerMax}`);
  });
  // Plans are made with it.
  for (const field of ['model', 'modelType'] as const) {
    const text: unknown = shape[field];
    if (field === 'modelType' && text === undefined) continue;
    if (typeof text !== 'string' || text.length < 1 || text.length > limits.nameLengthMax)
      throw badTrace(source, 'header', `${field} is ${shown(text)}, must be text of 1 to ${limits.nameLengthMax} characters`);
  }
  if (shape.groups === undefined) return;
  refuse('groups', shape.groups, shape.experts);
  if (shape.experts % shape.groups !== 0)
    throw badTrace(source, 'header', `groups is ${shape.groups}, must divide the ${shape.experts} experts`);
}

/** Domains that are told apart: as many as a coordinator remembers. */
const domainsMax = 4096;

/** The domains with most tokens, most first; ties by name. Clients name domains, so there may be as many as sequences: what is summed for each is summed for these alone. */
export function largestDomains(trace: RoutingTrace): { name: string; tokens: number }[] {
  const tokens = new Map<string, number>();
  for (const { domain, tokens: own } of trace.sequences)
    if (domain !== null && domain !== '') tokens.set(domain, (tokens.get(domain) ?? 0) + own);
  return [...tokens]
    .map(([name, of]) => ({ name, tokens: of }))
    .sort((a, b) => b.tokens - a.tokens || (a.name < b.name ? -1 : 1))
    .slice(0, domainsMax);
}

/** What decides whether a sample keeps a sequence. Shifted, for zero is where the hash stays: the first sequence would be in every sample. */
function sampleHash(sequence: number): number {
  return mix32((sequence + 0x5bd1_e995) | 0);
}

/**
 * Collects tokens one by one into a RoutingTrace of bounded size. When the bound is reached, whole sequences are dropped by a hash of their number,
 * so that what remains is an unbiased sample of sequences, whatever the order in which they arrive.
 */
export class TraceBuilder {
  private readonly shape: TraceShape;
  private readonly bounds: TraceBounds;
  private readonly source: string;
  private readonly row: number;
  private ids: Uint16Array;
  private sequence: Uint32Array;
  private position: Uint32Array;
  private generated: Uint8Array;
  private count = 0;
  private seen = 0;
  private keepBelow = 0x1_0000_0000;
  private readonly domains = new Map<number, string | null>();

  constructor(shape: TraceShape, source: string, bounds: Partial<TraceBounds> = {}) {
    checkShape(shape, source);
    this.shape = shape;
    this.source = source;
    this.bounds = { ...defaultTraceBounds, ...bounds };
    const { tokensMax } = this.bounds;
    // Of less than one token none can make room.
    if (!Number.isInteger(tokensMax) || tokensMax < 1)
      throw badTrace(source, 'tokensMax', `is ${tokensMax}, must be an integer of 1 at least`);
    this.row = shape.moeLayers.length * shape.topK;
    const first = Math.min(1024, tokensMax);
    this.ids = new Uint16Array(first * this.row);
    this.sequence = new Uint32Array(first);
    this.position = new Uint32Array(first);
    this.generated = new Uint8Array(first);
  }

  /** Adds one token. `ids` is read from `offset`, (layers, topK). `place` names the record in errors. */
  add(sequence: number, position: number, generated: boolean, ids: ArrayLike<number>, offset: number, place: () => string): void {
    const { experts, topK } = this.shape;
    for (let i = 0; i < this.row; i++) {
      const id = ids[offset + i];
      if (id === NO_EXPERT) continue;
      if (!(id < experts)) throw badTrace(this.source, place(), `expert id ${id} of layer ${Math.floor(i / topK)} is not below ${experts}`);
      const layerStart = i - (i % topK);
      for (let j = layerStart; j < i; j++)
        if (ids[offset + j] === id) throw badTrace(this.source, place(), `expert ${id} appears twice in layer ${layerStart / topK}`);
    }
    this.seen++;
    if (sampleHash(sequence) >= this.keepBelow) return;
    if (this.count === this.bounds.tokensMax) {
      this.makeRoom();
      if (sampleHash(sequence) >= this.keepBelow) return;
    }
    if (this.count === this.sequence.length) this.grow();
    for (let i = 0; i < this.row; i++) this.ids[this.count * this.row + i] = ids[offset + i];
    this.sequence[this.count] = sequence;
    this.position[this.count] = position;
    this.generated[this.count] = generated ? 1 : 0;
    this.count++;
  }

  nameDomain(sequence: number, domain: string | null): void {
    if (this.domains.size >= sequencesMax) throw badTrace(this.source, 'sequences', `more than ${sequencesMax} sequences`);
    this.domains.set(sequence, domain);
  }

  private makeRoom(): void {
    const { tokensMax, whenFull } = this.bounds;
    if (whenFull === 'refuse') throw badTrace(this.source, `token ${this.count}`, `more than ${tokensMax} tokens (tokensMax)`);
    while (this.count === tokensMax) {
      // The half in which the hash is low, and one sequence at least; but where a single one fills memory there is no room for it.
      const least = this.leastHash();
      this.keepBelow = least + 1 < this.keepBelow ? Math.max(this.keepBelow / 2, least + 1) : least;
      let kept = 0;
      for (let t = 0; t < this.count; t++) {
        if (sampleHash(this.sequence[t]) >= this.keepBelow) continue;
        this.ids.copyWithin(kept * this.row, t * this.row, (t + 1) * this.row);
        this.sequence[kept] = this.sequence[t];
        this.position[kept] = this.position[t];
        this.generated[kept] = this.generated[t];
        kept++;
      }
      this.count = kept;
    }
  }

  private leastHash(): number {
    let least = this.keepBelow;
    for (let t = 0; t < this.count; t++) least = Math.min(least, sampleHash(this.sequence[t]));
    return least;
  }

  private grow(): void {
    const size = Math.min(this.bounds.tokensMax, this.sequence.length * 2);
    const into = <A extends Uint16Array | Uint32Array | Uint8Array>(to: A, from: A): A => {
      to.set(from);
      return to;
    };
    this.ids = into(this.idsFor(size), this.ids);
    this.sequence = into(new Uint32Array(size), this.sequence);
    this.position = into(new Uint32Array(size), this.position);
    this.generated = into(new Uint8Array(size), this.generated);
  }

  /** Of all choices of so many tokens. They are by far the largest array, and of wide models longer than any may be. */
  private idsFor(tokens: number): Uint16Array {
    try {
      return new Uint16Array(tokens * this.row);
    } catch (cause) {
      const { moeLayers, topK } = this.shape;
      const problem = `is ${this.bounds.tokensMax}, must be below ${tokens}: there is no memory for ${tokens} tokens of ${moeLayers.length} layers x top-${topK}`;
      throw badTrace(this.source, 'tokensMax', problem, cause);
    }
  }

  /** Sorts tokens by sequence (in order of first arrival) and position, and numbers the sequences densely. */
  build(): RoutingTrace {
    if (this.count === 0) {
      const { tokensMax } = this.bounds;
      const thinned = this.keepBelow < 0x1_0000_0000;
      throw badTrace(
        this.source,
        'end',
        thinned ? `one sequence has more than ${tokensMax} tokens (tokensMax)` : 'the trace holds no tokens',
      );
    }
    const dense = new Map<number, number>();
    for (let t = 0; t < this.count; t++) if (!dense.has(this.sequence[t])) dense.set(this.sequence[t], dense.size);
    const order = Uint32Array.from({ length: this.count }, (_, t) => t);
    const rank = Uint32Array.from({ length: this.count }, (_, t) => dense.get(this.sequence[t])!);
    let sorted = true;
    for (let t = 1; t < this.count && sorted; t++)
      sorted = rank[t - 1] < rank[t] || (rank[t - 1] === rank[t] && this.position[t - 1] <= this.position[t]);
    if (!sorted) order.sort((x, y) => rank[x] - rank[y] || this.position[x] - this.position[y] || x - y);
    const ids = this.idsFor(this.count);
    const sequenceOf = new Uint32Array(this.count);
    const generated = new Uint8Array(this.count);
    const sequences: TraceSequence[] = [...dense.keys()].map((sequence) => ({
      sequence,
      domain: this.domains.get(sequence) ?? null,
      tokens: 0,
    }));
    order.forEach((from, to) => {
      ids.set(this.ids.subarray(from * this.row, (from + 1) * this.row), to * this.row);
      sequenceOf[to] = rank[from];
      generated[to] = this.generated[from];
      sequences[rank[from]].tokens++;
    });
    const whole = this.seen === this.count ? {} : { wholeTokens: this.seen };
    return { ...this.shape, tokens: this.count, ...whole, ids, sequenceOf, generated, sequences };
  }
}
