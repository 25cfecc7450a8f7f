import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { Deadline } from '../src/tokenizing/deadline.ts';
import { PromptEncoder, type PromptText } from '../src/tokenizing/prompt-text.ts';
import { Tokenizing } from '../src/tokenizing/tokenizing.ts';
import { modelDir } from './model-dir.ts';

// Real bounds are longer than a test should take.
vi.mock('../src/bounds.ts', async (original) => {
  const { bounds } = await original<typeof import('../src/bounds.ts')>();
  return { bounds: { ...bounds, inlineTextMsMax: 300, tokenizingMsMax: 3_000 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-en-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** The bundled tokenizer with a file of its own. */
function checkpoint(name: string, file: string, content: string): string {
  const dir = mkdtempSync(path.join(folder, name));
  for (const other of readdirSync(modelDir)) if (other !== file) symlinkSync(path.join(modelDir, other), path.join(dir, other));
  writeFileSync(path.join(dir, file), content);
  return dir;
}

const endlessTemplate = `{% if messages[0].content == 'endless' %}{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}`;
const tokenizer = JSON.parse(readFileSync(path.join(modelDir, 'tokenizer.json'), 'utf8'));
const endlessPattern = { type: 'Split', pattern: { Regex: '^(\\w+)+!' }, behavior: 'Isolated', invert: false };
const said = (content: string): PromptText => ({
  kind: 'conversation',
  conversation: { messages: [{ role: 'user', content }], tools: null, addGenerationPrompt: true, variables: {} },
});
const plain = (text: string): PromptText => ({ kind: 'text', text, addSpecialTokens: false, controls: true });

describe("a checkpoint's own work", () => {
  it.each([
    ['template', 'chat_template.jinja', endlessTemplate, said('endless'), said('short')],
    [
      'pattern',
      'tokenizer.json',
      JSON.stringify({ ...tokenizer, pre_tokenizer: { type: 'Sequence', pretokenizers: [endlessPattern, tokenizer.pre_tokenizer] } }),
      plain(`${'a'.repeat(60)}?`),
      plain('short'),
    ],
  ])(
    'ends at a deadline where its %s has no end, in the main thread for good the second time',
    async (_, file, content, endless, short) => {
      const told: string[] = [];
      const tokenizing = new Tokenizing(checkpoint('endless', file, content), (what) => told.push(what));
      tokenizing.start();
      const here = vi.spyOn(PromptEncoder.prototype, 'encode');
      const ids = await tokenizing.encode(short);
      expect(ids.length).toBeGreaterThan(0);
      expect(here).toHaveBeenCalledTimes(1);
      const ends = () =>
        expect(tokenizing.encode(endless)).rejects.toMatchObject({
          code: 'invalid_request',
          message: expect.stringContaining('takes longer than 3000 ms to tokenise'),
        });
      await ends();
      // Once may have been the machine's fault: what was ended is made anew.
      expect(await tokenizing.encode(short)).toEqual(ids);
      expect([told, here.mock.calls.length]).toEqual([[], 3]);
      await ends();
      expect(told).toEqual([expect.stringContaining('has taken longer than 300 ms twice')]);
      // Only the thread, which starts anew, is asked.
      expect(await tokenizing.encode(short)).toEqual(ids);
      expect(here).toHaveBeenCalledTimes(4);
      here.mockRestore();
      await tokenizing.close();
    },
  );
});

describe('a deadline', () => {
  it('hands on what the work returns and throws', () => {
    const deadline = new Deadline(1_000);
    expect(deadline.run(() => null)).toEqual({ value: null });
    const error = new RangeError('mine');
    expect(() =>
      deadline.run(() => {
        throw error;
      }),
    ).toThrow(error);
  });
});
