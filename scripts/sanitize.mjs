// The conformance program of the kernels under the address and undefined-behaviour sanitizers, or, with --threads, under the thread sanitizer:
//   node scripts/sanitize.mjs [--threads] [suite ...]
// CXX chooses the compiler; both g++ and clang++ are meant to pass. Takes minutes: of the tests a few suites are a part, and in continuous integration only.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const native = path.join(path.dirname(path.dirname(fileURLToPath(import.meta.url))), 'native');
const threads = process.argv.includes('--threads');
const named = process.argv.slice(2).filter((argument) => argument !== '--threads');
/** Those in which threads share work. The others would only take longer. */
const sharing = ['pool', 'thread_choice', 'linear', 'head_linear', 'attention', 'experts_large', 'experts_whole', 'experts_divided'];
const run = (command, args) => {
  const { status, signal } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(signal === null ? status : 1);
};
run(process.execPath, [path.join(native, 'build.mjs'), threads ? '--sanitize=thread' : '--sanitize']);
run(
  path.join(native, threads ? 'build/threads/conformance' : 'build/sanitized/conformance'),
  threads && named.length === 0 ? sharing : named,
);
