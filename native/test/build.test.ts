import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test('compilers that do not know the instruction sets are named, with what is needed', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-native-'));
  try {
    const old = '#!/bin/sh\n[ "$1" = --version ] && echo "c++ (Old) 8.3.0"\n';
    writeFileSync(path.join(folder, 'c++'), old, { mode: 0o755 });
    const build = fileURLToPath(new URL('../build.mjs', import.meta.url));
    const run = spawnSync(process.execPath, [build], { encoding: 'utf8', env: { PATH: folder } });
    expect(run.stderr).toBe(
      'switchyard native: too old: c++ (c++ (Old) 8.3.0); C++17 with -mavx512bf16 needs gcc 10, clang 9 or newer: install one or set CXX\n',
    );
    expect(run.status).toBe(1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
