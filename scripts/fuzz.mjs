// The tests' properties, each for as long as one likes instead of a few hundred runs: `npm run fuzz -- [--seconds 20] [part of a file's name ...]`. Frames, messages,
// handshakes, checkpoints, traces, plans, requests, schedules, samplers, whole clusters: whatever a test has a property of. A failure comes with the seed and path by
// which fast-check finds it again. The tests run the short form.

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const usage = "Usage: npm run fuzz -- [--seconds 20] [part of a file's name ...]\n";
const root = fileURLToPath(new URL('..', import.meta.url));
const folders = ['proto', 'placement', 'native', 'worker', 'coordinator', 'cli', 'test'];

function fail(message) {
  process.stderr.write(`fuzz: ${message}\n${usage}`);
  process.exit(2);
}

function argumentsOf(args) {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: { seconds: { type: 'string', default: '20' }, help: { type: 'boolean', short: 'h', default: false } },
      allowPositionals: true,
    });
    return { ...values, parts: positionals };
  } catch (error) {
    return fail(error.message);
  }
}

/** Files with properties. */
function propertyFiles() {
  return folders.flatMap((folder) => {
    const within = path.join(root, folder, folder === 'test' ? '' : 'test');
    const names = readdirSync(within, { recursive: true }).filter((name) => name.endsWith('.test.ts'));
    return names.map((name) => path.join(within, name)).filter((file) => readFileSync(file, 'utf8').includes("from 'fast-check'"));
  });
}

const { seconds, help, parts } = argumentsOf(process.argv.slice(2));
if (help) {
  process.stdout.write(usage);
  process.exit(0);
}
if (!(Number(seconds) > 0)) fail(`--seconds ${seconds}: must be above 0`);
const all = propertyFiles().map((file) => path.relative(root, file));
const files = all.filter((file) => parts.length === 0 || parts.some((part) => file.includes(part)));
if (files.length === 0) fail(`no file with properties is named like ${parts.join(', ')}; there are\n${all.join('\n')}`);
const { status, signal } = spawnSync(process.execPath, [path.join(root, 'node_modules/vitest/vitest.mjs'), 'run', ...files], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, SWITCHYARD_FUZZ_SECONDS: seconds },
});
process.exitCode = signal === null ? status : 130;
