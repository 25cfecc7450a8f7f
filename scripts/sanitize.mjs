// The conformance program of the kernels under the address and undefined-behaviour sanitizers: `node scripts/sanitize.mjs [suite ...]`.
// CXX chooses the compiler; both g++ and clang++ are meant to pass. Takes minutes: of the tests a few suites are a part, and in continuous integration only.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const native = path.join(path.dirname(path.dirname(fileURLToPath(import.meta.url))), 'native');
const run = (command, args) => {
  const { status, signal } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(signal === null ? status : 1);
};
run(process.execPath, [path.join(native, 'build.mjs'), '--sanitize']);
run(path.join(native, 'build/sanitized/conformance'), process.argv.slice(2));
