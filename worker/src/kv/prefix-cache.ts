/**
 * Finds KV blocks by the tokens that made them. A full block is identified by the chain of tokens from the start of the sequence through its last one, inside a
 * scope (tenant, rope variant, numeric class): equal chains in equal scopes have bit-equal keys and values, because decode and prefill write the same bits.
 *
 * The hash only finds candidates; a hit compares the block's own tokens and its parent's identity, so no collision can hand out another prompt's cache.
 * Entries live as long as their block's content: the pool tells when a block is overwritten. Everything here is bounded by the number of blocks.
 */
export class PrefixCache {
  readonly blockTokens: number;
  private readonly blockByHash = new Map<number, number>();
  private readonly scopes = new Map<string, { serial: number; children: number }>();
  private readonly scopeOf: (string | null)[];
  /** Identity of a cached block's content, never reused; 0 when the block is not cached. */
  private readonly serial: Float64Array;
  private readonly parent: Float64Array;
  private readonly hash: Float64Array;
  /** (blocks, blockTokens) */
  private readonly tokens: Int32Array;
  private lastSerial = 0;

  constructor(blocks: number, blockTokens: number) {
    this.blockTokens = blockTokens;
    this.scopeOf = new Array(blocks).fill(null);
    this.serial = new Float64Array(blocks);
    this.parent = new Float64Array(blocks);
    this.hash = new Float64Array(blocks);
    this.tokens = new Int32Array(blocks * blockTokens);
  }

  /**
   * Longest cached prefix of `tokens[0 .. length)` in whole blocks that leaves at least the last token to compute. Writes block numbers into `out`, returns how
   * many.
   */
  find(scope: string, tokens: Int32Array, length: number, out: Int32Array): number {
    let parent = this.scopes.get(scope)?.serial ?? 0;
    const most = Math.floor((length - 1) / this.blockTokens);
    let found = 0;
    while (parent !== 0 && found < most) {
      const block = this.lookUp(parent, tokens, found * this.blockTokens);
      if (block < 0) break;
      out[found++] = block;
      parent = this.serial[block];
    }
    return found;
  }

  /**
   * Publishes the full block `block` that holds tokens `tokens[at .. at + blockTokens)`. `parent` is what the publication of the block before it returned (0 for
   * the first). Returns the identity of the content, which is another block's where the same content was published before; then `block` stays private.
   */
  publish(scope: string, parent: number, tokens: Int32Array, at: number, block: number): { serial: number; kept: boolean } {
    const first = at === 0;
    const above = first ? this.openScope(scope) : parent;
    const existing = this.lookUp(above, tokens, at);
    if (existing >= 0) return { serial: this.serial[existing], kept: false };
    const hash = this.hashOf(above, tokens, at);
    this.lastSerial++;
    if (this.blockByHash.has(hash)) {
      if (first) this.closeScopeIfEmpty(scope);
      return { serial: this.lastSerial, kept: false };
    }
    this.blockByHash.set(hash, block);
    this.serial[block] = this.lastSerial;
    this.parent[block] = above;
    this.hash[block] = hash;
    for (let i = 0; i < this.blockTokens; i++) this.tokens[block * this.blockTokens + i] = tokens[at + i];
    if (first) {
      this.scopeOf[block] = scope;
      this.scopes.get(scope)!.children++;
    }
    return { serial: this.lastSerial, kept: true };
  }

  /** Identity of a cached block's content. */
  serialOf(block: number): number {
    return this.serial[block];
  }

  /** The block's content is about to be overwritten. Longer chains through it become unreachable, for identities are never reused. */
  forget(block: number): void {
    this.blockByHash.delete(this.hash[block]);
    this.serial[block] = 0;
    const scope = this.scopeOf[block];
    if (scope === null) return;
    this.scopeOf[block] = null;
    this.scopes.get(scope)!.children--;
    this.closeScopeIfEmpty(scope);
  }

  private openScope(scope: string): number {
    let entry = this.scopes.get(scope);
    if (entry === undefined) {
      entry = { serial: ++this.lastSerial, children: 0 };
      this.scopes.set(scope, entry);
    }
    return entry.serial;
  }

  private closeScopeIfEmpty(scope: string): void {
    if (this.scopes.get(scope)!.children === 0) this.scopes.delete(scope);
  }

  private lookUp(parent: number, tokens: Int32Array, at: number): number {
    const block = this.blockByHash.get(this.hashOf(parent, tokens, at));
    if (block === undefined || this.parent[block] !== parent) return -1;
    for (let i = 0; i < this.blockTokens; i++) if (this.tokens[block * this.blockTokens + i] !== tokens[at + i]) return -1;
    return block;
  }

  /** 52 bits from two multiplicative hashes of the parent's identity and the tokens. */
  private hashOf(parent: number, tokens: Int32Array, at: number): number {
    let a = 0x9e3779b9 ^ (parent >>> 0);
    let b = 0x85ebca6b ^ Math.floor(parent / 0x1_0000_0000);
    for (let i = 0; i < this.blockTokens; i++) {
      const token = tokens[at + i];
      a = Math.imul(a ^ token, 0x01000193) ^ (a >>> 15);
      b = Math.imul(b ^ token, 0xcc9e2d51) ^ (b >>> 13);
    }
    b = Math.imul(b ^ a, 0x1b873593);
    return (a >>> 0) * 0x10_0000 + (b >>> 12);
  }
}
