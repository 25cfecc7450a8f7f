/**
 * Blocks of the paged KV cache: who holds which, and which are free. A block may be held by several sequences at once (a shared prefix); it is free when nobody
 * holds it. Free blocks keep their content until they are taken: taking prefers blocks without reusable content, then the one freed longest ago.
 */
export class BlockPool {
  readonly blocks: number;
  private readonly holders: Int32Array;
  /** 1 where the content may be found again through the prefix cache. */
  private readonly reusable: Uint8Array;
  /** The free list, doubly linked through block numbers; entry `blocks` is its head and tail. */
  private readonly next: Int32Array;
  private readonly previous: Int32Array;
  private freeBlocks: number;
  private readonly forget: (block: number) => void;

  /** @param forget told when a reusable block is about to be overwritten */
  constructor(blocks: number, forget: (block: number) => void) {
    this.blocks = blocks;
    this.holders = new Int32Array(blocks);
    this.reusable = new Uint8Array(blocks);
    this.next = new Int32Array(blocks + 1);
    this.previous = new Int32Array(blocks + 1);
    this.freeBlocks = blocks;
    this.forget = forget;
    for (let i = 0; i <= blocks; i++) {
      this.next[i] = i === blocks ? 0 : i + 1;
      this.previous[i] = i === 0 ? blocks : i - 1;
    }
  }

  get free(): number {
    return this.freeBlocks;
  }

  get used(): number {
    return this.blocks - this.freeBlocks;
  }

  isFree(block: number): boolean {
    return this.holders[block] === 0;
  }

  /** True when exactly one sequence holds the block, so that its release would free it. */
  isExclusive(block: number): boolean {
    return this.holders[block] === 1;
  }

  /** Takes a free block for one holder. The caller has checked `free`. */
  take(): number {
    const block = this.next[this.blocks];
    if (block === this.blocks) throw new Error('BlockPool.take: no free block; the scheduler must check first');
    this.unlink(block);
    if (this.reusable[block] === 1) {
      this.reusable[block] = 0;
      this.forget(block);
    }
    this.holders[block] = 1;
    return block;
  }

  /** Adds a holder to a block whose content is wanted again. */
  share(block: number): void {
    if (this.holders[block]++ === 0) this.unlink(block);
  }

  release(block: number): void {
    if (this.holders[block] === 0) throw new Error(`BlockPool.release: block ${block} is free already`);
    if (--this.holders[block] > 0) return;
    // Reusable content waits at the tail, worthless content is taken first.
    if (this.reusable[block] === 1) this.link(block, this.previous[this.blocks]);
    else this.link(block, this.blocks);
  }

  /** From now on the content is immutable and may be found again. */
  markReusable(block: number): void {
    this.reusable[block] = 1;
  }

  private link(block: number, after: number): void {
    const before = this.next[after];
    this.next[after] = block;
    this.previous[block] = after;
    this.next[block] = before;
    this.previous[before] = block;
    this.freeBlocks++;
  }

  private unlink(block: number): void {
    const before = this.previous[block];
    const after = this.next[block];
    this.next[before] = after;
    this.previous[after] = before;
    this.freeBlocks--;
  }
}
