import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockPool } from '../../src/kv/block-pool.ts';
import { PrefixCache } from '../../src/kv/prefix-cache.ts';

describe('BlockPool', () => {
  test('takes worthless blocks first, then the reusable ones in the order they were freed', () => {
    const forgotten: number[] = [];
    const pool = new BlockPool(3, (block) => forgotten.push(block));
    const [a, b, c] = [pool.take(), pool.take(), pool.take()];
    pool.markReusable(a);
    pool.markReusable(b);
    for (const block of [b, a, c]) pool.release(block);
    expect([pool.take(), pool.take(), pool.take()]).toEqual([c, b, a]);
    expect(forgotten).toEqual([b, a]);
    expect(() => pool.take()).toThrow(/no free block/);
  });

  test('a shared block is free only after its last holder', () => {
    const pool = new BlockPool(2, () => {});
    const block = pool.take();
    expect(pool.isExclusive(block)).toBe(true);
    pool.share(block);
    expect(pool.isExclusive(block)).toBe(false);
    pool.release(block);
    expect([pool.free, pool.isExclusive(block), pool.isFree(block)]).toEqual([1, true, false]);
    pool.release(block);
    expect(pool.free).toBe(2);
    expect(() => pool.release(block)).toThrow(/free already/);
  });

  test('never hands out a held block and never loses one', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom('take', 'share', 'release', 'reusable'), fc.nat()), { maxLength: 200 }), (actions) => {
        const pool = new BlockPool(7, () => {});
        const held: number[] = [];
        for (const [action, n] of actions) {
          if (action === 'take' && pool.free > 0) {
            const block = pool.take();
            expect(held).not.toContain(block);
            held.push(block);
          } else if (action === 'share') {
            const block = n % 7;
            pool.share(block);
            held.push(block);
          } else if (action === 'release' && held.length > 0) pool.release(held.splice(n % held.length, 1)[0]);
          else if (action === 'reusable' && held.length > 0) pool.markReusable(held[n % held.length]);
          expect(pool.free).toBe(7 - new Set(held).size);
        }
      }),
    );
  });
});

describe('PrefixCache', () => {
  const tokens = (...values: number[]) => Int32Array.from(values);

  test('finds whole blocks of the same scope, and leaves the last token to compute', () => {
    const cache = new PrefixCache(8, 2);
    const prompt = tokens(1, 2, 3, 4, 5, 6);
    let parent = 0;
    for (const block of [0, 1, 2]) parent = cache.publish('a', parent, prompt, block * 2, block).serial;
    const out = new Int32Array(8);
    expect(cache.find('a', prompt, 6, out)).toBe(2);
    expect([...out.slice(0, 2)]).toEqual([0, 1]);
    expect(cache.find('a', tokens(1, 2, 3, 4, 5, 6, 7), 7, out)).toBe(3);
    expect(cache.find('a', tokens(1, 2, 9, 4, 5, 6, 7), 7, out)).toBe(1);
    expect(cache.find('b', prompt, 6, out)).toBe(0);
  });

  test('the same tokens after another beginning are another block', () => {
    const cache = new PrefixCache(8, 2);
    const first = cache.publish('a', 0, tokens(1, 1), 0, 0).serial;
    cache.publish('a', first, tokens(1, 1, 5, 5), 2, 1);
    const second = cache.publish('a', 0, tokens(2, 2), 0, 2).serial;
    expect(cache.find('a', tokens(2, 2, 5, 5, 0), 5, new Int32Array(8))).toBe(1);
    expect(cache.publish('a', second, tokens(2, 2, 5, 5), 2, 3).kept).toBe(true);
  });

  test('content published twice keeps its first block', () => {
    const cache = new PrefixCache(8, 2);
    const first = cache.publish('a', 0, tokens(1, 2), 0, 0);
    const again = cache.publish('a', 0, tokens(1, 2), 0, 5);
    expect(again).toEqual({ serial: first.serial, kept: false });
  });

  test('a chain is unreachable once its beginning is overwritten, even by the same content', () => {
    const cache = new PrefixCache(8, 2);
    const prompt = tokens(1, 2, 3, 4, 5);
    const first = cache.publish('a', 0, prompt, 0, 0).serial;
    cache.publish('a', first, prompt, 2, 1);
    cache.forget(0);
    const out = new Int32Array(8);
    expect(cache.find('a', prompt, 5, out)).toBe(0);
    cache.publish('a', 0, prompt, 0, 4);
    expect(cache.find('a', prompt, 5, out)).toBe(1);
  });

  test('a block whose hash is taken stays private, and whoever looks for it finds no other', () => {
    const out = new Int32Array(8);
    const [one, other] = [tokens(1, 2, 3, 4, 0), tokens(4_824_655, 129_598_877, 3, 4, 0)];
    for (const [kept, lost] of [
      [one, other],
      [other, one],
    ]) {
      const cache = new PrefixCache(8, 2);
      const above = cache.publish('a', 0, kept, 0, 0).serial;
      const { serial, kept: published } = cache.publish('a', 0, lost, 0, 1);
      expect(published).toBe(false);
      expect(serial).not.toBe(above);
      expect(cache.publish('a', above, kept, 2, 2).kept).toBe(true);
      // What follows the lost one has a place of its own, which no search reaches.
      cache.publish('a', serial, lost, 2, 3);
      expect([cache.find('a', kept, 5, out), ...out.slice(0, 2)]).toEqual([2, 0, 2]);
      expect(cache.find('a', lost, 5, out)).toBe(0);
    }
  });

  test('remembers no scope of which no block is left', () => {
    const cache = new PrefixCache(8, 2);
    const { scopes } = cache as unknown as { scopes: Map<string, unknown> };
    const prompt = tokens(1, 2, 3, 4);
    const first = cache.publish('a', 0, prompt, 0, 0).serial;
    cache.publish('a', first, prompt, 2, 1);
    cache.publish('a', 0, tokens(5, 6), 0, 2);
    cache.publish('b', 0, prompt, 0, 3);
    for (const [block, left] of [
      [1, ['a', 'b']],
      [2, ['a', 'b']],
      [3, ['a']],
      [0, []],
    ] as const) {
      cache.forget(block);
      expect([...scopes.keys()]).toEqual(left);
    }
    // A block forgotten once is nobody's: its next content is.
    cache.publish('c', first, prompt, 2, 0);
    cache.forget(0);
    expect(cache.find('a', tokens(1, 2, 3), 3, new Int32Array(8))).toBe(0);
  });

  test('finds exactly the longest prefix that some published sequence shares', () => {
    const sequence = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(fc.array(sequence, { minLength: 1, maxLength: 6 }), sequence, fc.boolean(), (published, wanted, downwards) => {
        const cache = new PrefixCache(64, 2);
        let blocks = 0;
        const nextBlock = () => (downwards ? 63 - blocks++ : blocks++);
        for (const list of published) {
          let parent = 0;
          for (let at = 0; at + 2 <= list.length; at += 2)
            parent = cache.publish('t', parent, Int32Array.from(list), at, nextBlock()).serial;
        }
        const most = Math.floor((wanted.length - 1) / 2);
        let longest = 0;
        for (const list of published) {
          let shared = 0;
          while (
            shared < most &&
            list.length >= 2 * shared + 2 &&
            list[2 * shared] === wanted[2 * shared] &&
            list[2 * shared + 1] === wanted[2 * shared + 1]
          )
            shared++;
          longest = Math.max(longest, shared);
        }
        expect(cache.find('t', Int32Array.from(wanted), wanted.length, new Int32Array(64))).toBe(longest);
      }),
    );
  });
});
