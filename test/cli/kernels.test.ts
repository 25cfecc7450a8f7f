import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { start } from './program.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const dir = mkdtempSync(path.join(os.tmpdir(), 'kernels-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Has programs load `@switchyard/native` from a folder in which nothing was compiled. */
function withoutKernels(): string {
  cpSync(path.join(root, 'native/dist'), path.join(dir, 'native/dist'), { recursive: true });
  symlinkSync(path.join(root, 'node_modules'), path.join(dir, 'node_modules'));
  const entry = pathToFileURL(path.join(dir, 'native/dist/index.js'));
  const hook = `export const resolve = (name, context, next) => name === '@switchyard/native' ? { url: '${entry}', shortCircuit: true } : next(name, context);`;
  const encoded = (code: string) => `data:text/javascript,${encodeURIComponent(code)}`;
  return encoded(`import { register } from 'node:module'; register(${JSON.stringify(encoded(hook))});`);
}

it('says what is missing where the kernels are not built', async () => {
  const { status, stderr } = await start(['doctor'], { NODE_OPTIONS: `--import ${withoutKernels()}` }).finished;
  expect(stderr).toMatch(/^error: the kernels are not built: .*switchyard\.node is missing; run `npm run build`\n$/);
  expect(status).toBe(1);
});
