// The conformance program of the kernels under the address and undefined-behaviour sanitizers, and then under the thread sanitizer; with --addresses or --threads under
// the one alone:
//   node scripts/sanitize.mjs [--addresses | --threads] [suite ...]
// CXX chooses the compiler; both g++ and clang++ are meant to pass. Takes minutes: of the tests a few suites are a part, and in continuous integration only.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const native = path.join(path.dirname(path.dirname(fileURLToPath(import.meta.url))), 'native');
const given = process.argv.slice(2);
const named = given.filter((argument) => !argument.startsWith('--'));
/** Those in which threads share work. The others would only take longer. */
const sharing = ['pool', 'thread_choice', 'linear', 'head_linear', 'attention', 'experts_large', 'experts_whole', 'experts_divided'];
const run = (command, args) => {
  const { status, signal } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(signal === null ? status : 1);
};
const kinds = {
  '--addresses': { build: '--sanitize', folder: 'sanitized', suites: [] },
  '--threads': { build: '--sanitize=thread', folder: 'threads', suites: sharing },
};
const unknown = given.find((argument) => argument.startsWith('--') && kinds[argument] === undefined);
if (unknown !== undefined) {
  console.error(`${unknown} is not known: ${Object.keys(kinds).join(' or ')}, and names of suites`);
  process.exit(2);
}
const alone = Object.keys(kinds).filter((kind) => given.includes(kind));
for (const kind of alone.length > 0 ? alone : Object.keys(kinds)) {
  const { build, folder, suites } = kinds[kind];
  run(process.execPath, [path.join(native, 'build.mjs'), build]);
  run(path.join(native, 'build', folder, 'conformance'), named.length > 0 ? named : suites);
}
