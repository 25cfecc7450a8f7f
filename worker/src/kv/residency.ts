import type { Counters } from '../engine/counters.ts';
import type { AdmissionCost, AdmissionRule } from '../engine/schedule.ts';
import type { Sequence } from '../engine/sequence.ts';
import { AwaitedBlock } from './awaited-block.ts';
import { BlockPool } from './block-pool.ts';
import { PrefixCache } from './prefix-cache.ts';

/** Moves sequences in and out of the KV cache: which blocks they share, take, publish. */
export class Residency {
  readonly pool: BlockPool;
  readonly blockTokens: number;
  private readonly prefix: PrefixCache | null;
  private readonly counters: Counters;
  private readonly hits: Int32Array;

  constructor(blocks: number, blockTokens: number, prefixCache: boolean, counters: Counters) {
    const prefix = prefixCache ? new PrefixCache(blocks, blockTokens) : null;
    this.prefix = prefix;
    this.pool = new BlockPool(blocks, (block) => prefix?.forget(block));
    this.blockTokens = blockTokens;
    this.counters = counters;
    this.hits = new Int32Array(blocks);
  }

  /**
   * What admission costs, unless somebody is computing the block that the sequence lacks next. Then it waits, and shares that block: of choices of one prompt the first
   * computes it. It waits for steps alone, which end: whoever is given no rows keeps nobody waiting.
   */
  readonly admissionRule: AdmissionRule = (waiting, computing) => {
    const sequence = waiting as Sequence;
    // A long common beginning is not looked up again before there is more of it.
    if (sequence.waitsFor?.isUnderWay(computing)) return null;
    const found = this.lookAt(sequence);
    const other = this.mayFind(sequence) ? computing.find((one) => this.isComputing(one as Sequence, sequence, found)) : undefined;
    sequence.waitsFor = other === undefined ? null : this.awaited(other as Sequence, sequence, found);
    return other === undefined ? this.cost(sequence, found) : null;
  };

  /** Whether `other` has still to compute block `index` of the sequence's prompt, as the same content. `index` blocks of the sequence are in `hits`. */
  private isComputing(other: Sequence, { scope, tokens, length }: Sequence, index: number): boolean {
    const end = (index + 1) * this.blockTokens;
    // One that needs all its logits may take hundreds of steps.
    if (other.ending || other.everyLogit || other.scope !== scope || end >= length || end > other.length || other.computed >= end)
      return false;
    let from = 0;
    // What both have published is the same, or not, by its name.
    if (index > 0 && other.publishedBlocks === index) {
      if (other.publishedSerial !== this.prefix!.serialOf(this.hits[index - 1])) return false;
      from = index * this.blockTokens;
    }
    for (let i = from; i < end; i++) if (other.tokens[i] !== tokens[i]) return false;
    return true;
  }

  /** Block `index` of the sequence, which `other` computes. */
  private awaited(other: Sequence, { tokens, length }: Sequence, index: number): AwaitedBlock {
    const { blockTokens } = this;
    const end = (index + 1) * blockTokens;
    // The last token of a prompt is always computed.
    const most = Math.min(other.length, length - 1);
    let common = end;
    while (common < most && other.tokens[common] === tokens[common]) common++;
    return new AwaitedBlock(other, { end, common, blockTokens });
  }

  /** What admitting the sequence would cost now. Changes nothing. @param found blocks of it that are in `hits` */
  private cost(sequence: Sequence, found: number): AdmissionCost {
    let blocks = Math.ceil(sequence.length / this.blockTokens) - found;
    for (let i = 0; i < found; i++) if (this.pool.isFree(this.hits[i])) blocks++;
    return { blocks, cached: found * this.blockTokens };
  }

  /** Gives the sequence blocks for all its tokens, cached ones first. Returns false, and changes nothing, when there are too few. */
  admit(sequence: Sequence): boolean {
    const found = this.find(sequence);
    if (this.cost(sequence, found).blocks > this.pool.free) return false;
    for (let i = 0; i < found; i++) {
      this.pool.share(this.hits[i]);
      sequence.addBlock(this.hits[i]);
    }
    sequence.computed = found * this.blockTokens;
    sequence.scheduled = sequence.computed;
    sequence.publishedBlocks = found;
    sequence.publishedSerial = found === 0 ? 0 : this.prefix!.serialOf(this.hits[found - 1]);
    if (!sequence.admittedBefore) {
      sequence.admittedBefore = true;
      sequence.cachedTokens = sequence.computed;
      this.counters.promptTokens += sequence.promptLength;
      if (this.mayFind(sequence)) {
        this.counters.prefixQueries += sequence.promptLength;
        this.counters.prefixHits += sequence.cachedTokens;
      }
    }
    this.grow(sequence);
    return true;
  }

  /** Takes the blocks that the sequence's tokens, and those of its guesses that are checked, need and do not have. The scheduler has made sure that they are free. */
  grow(sequence: Sequence): void {
    const needed = Math.ceil((sequence.length + sequence.draft.checked) / this.blockTokens);
    while (sequence.blockCount < needed) sequence.addBlock(this.pool.take());
  }

  /** Gives back the blocks that guesses needed which were not right: someone else may lack them before this one comes so far. */
  shrink(sequence: Sequence): void {
    const needed = Math.ceil(sequence.length / this.blockTokens);
    while (sequence.blockCount > needed) this.pool.release(sequence.blocks[--sequence.blockCount]);
  }

  /** Offers the blocks that computing has filled to others. A published block is never written again. */
  publish(sequence: Sequence): void {
    if (this.prefix === null) return;
    while ((sequence.publishedBlocks + 1) * this.blockTokens <= sequence.computed) {
      const index = sequence.publishedBlocks++;
      const block = sequence.blocks[index];
      const { serial, kept } = this.prefix.publish(
        sequence.scope,
        sequence.publishedSerial,
        sequence.tokens,
        index * this.blockTokens,
        block,
      );
      if (kept) this.pool.markReusable(block);
      sequence.publishedSerial = serial;
    }
  }

  /** Notes how much of a waiting sequence is cached. @returns blocks of it that are in `hits` */
  lookAt(sequence: Sequence): number {
    const found = this.find(sequence);
    sequence.cachedWhenLookedAt = found * this.blockTokens;
    return found;
  }

  /** Cached blocks for the sequence, into `hits`. */
  private find(sequence: Sequence): number {
    return this.mayFind(sequence) ? this.prefix!.find(sequence.scope, sequence.tokens, sequence.length, this.hits) : 0;
  }

  /** One that wants logprobs of its prompt must compute all of it. */
  private mayFind({ everyLogit }: Sequence): boolean {
    return this.prefix !== null && !everyLogit;
  }
}
