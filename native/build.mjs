// Compiles the kernels: build/switchyard.node (the addon) and the programs conformance, bench and row-bench beside it.
// Where nvcc is found (`NVCC`, the path, /usr/local/cuda; `NVCC=none` leaves it out) the kernels for GPUs are part of it.
// Plain compiler calls, no build system. A file is compiled again when its text, a header it includes, the flags or the compiler changed; objects are
// named by that content, so two builds at once cannot mix. Nothing is tuned to the machine that compiles: instruction sets are chosen when a device opens.
// `--sanitize`: only build/sanitized/conformance, which stops at the first access outside memory and the first thing that C++ leaves undefined;
// `--sanitize=thread`: only build/threads/conformance, which tells of threads that race.
// `--emulate-avx512`: only build/emulated/conformance, whose kernels for AVX-512 run on AVX2 (emulation/avx512.h).
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(fileURLToPath(import.meta.url));
const sources = ['cpp', 'cuda'].map((folder) => path.join(root, folder));
const [sanitize, sanitizeThreads] = ['--sanitize', '--sanitize=thread'].map((flag) => process.argv.includes(flag));
const sanitizers = sanitize ? ['-fsanitize=address,undefined'] : sanitizeThreads ? ['-fsanitize=thread'] : [];
const emulate = process.argv.includes('--emulate-avx512');
const emulation = path.join(root, 'emulation/avx512.h');
const onlyConformance = sanitizers.length > 0 || emulate;
const build = path.join(root, sanitize ? 'build/sanitized' : sanitizeThreads ? 'build/threads' : emulate ? 'build/emulated' : 'build');
const objects = path.join(sanitizers.length > 0 ? build : path.join(root, 'build'), 'objects');
const started = Date.now();

const common = [
  ...(sanitizers.length > 0 ? ['-O1', '-g', ...sanitizers, '-fno-sanitize-recover=all', '-fno-omit-frame-pointer'] : ['-O3']),
  '-std=c++17',
  '-fPIC',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fvisibility=hidden',
  '-Wall',
  '-Wextra',
  '-pthread',
];
/** Extra flags by the end of a file's name; such files exist for x86-64 only. */
const instructionSets = {
  _avx2: ['-mavx2', '-mfma', '-mf16c'],
  _avx512: emulate
    ? ['-mavx2', '-mfma', '-mf16c', '-O1', '-Wno-psabi', '-Wno-unused-function', '-include', emulation]
    : [
        '-mavx512f',
        '-mavx512bw',
        '-mavx512vl',
        '-mavx512dq',
        '-mavx512bf16',
        '-mavx512vnni',
        '-mavx2',
        '-mfma',
        '-mf16c',
        '-mprefer-vector-width=512',
      ],
};
const shared = process.platform === 'darwin' ? ['-shared', '-undefined', 'dynamic_lookup'] : ['-shared'];
const parallel = Math.max(1, Math.min(os.cpus().length, 4));
/** Its exit status where no compiler is new enough: who has kernels that were brought along may use them (scripts/checkout.mjs). */
const noCompilerStatus = 3;

function say(message) {
  process.stderr.write(`switchyard native: ${message}\n`);
}

/** Whether a compiler knows the language and every instruction set of the kernels. Asked of an empty text, it answers within milliseconds. */
function isRecent(name) {
  const flags = process.arch === 'x64' ? Object.values(instructionSets).flat() : [];
  return (
    spawnSync(name, ['-std=c++17', ...flags, '-fsyntax-only', '-x', 'c++', '-'], { input: '', stdio: ['pipe', 'ignore', 'ignore'] })
      .status === 0
  );
}

function findCompiler() {
  const old = [];
  for (const name of [process.env.CXX, 'c++', 'g++', 'clang++']) {
    if (!name) continue;
    const answer = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (answer.status === 0) {
      // One compiler has several names (c++, g++): what it says after its name tells it apart.
      if (isRecent(name)) return { name, version: answer.stdout.replace(/^\S+\s*/, '') };
      old.push(`${name} (${answer.stdout.split('\n')[0]})`);
    }
    if (name === process.env.CXX) say(`CXX=${name} ${answer.status === 0 ? 'is too old' : 'does not run'}; trying the usual names`);
  }
  if (old.length > 0) {
    say(`too old: ${old.join(', ')}; C++17 with -mavx512bf16 needs gcc 10, clang 9 or newer: install one or set CXX`);
    process.exit(noCompilerStatus);
  }
  say(
    'no C++ compiler found: install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) or set CXX',
  );
  process.exit(noCompilerStatus);
}

/** The GPU's compiler and its runtime's static library, or null. The runtime finds the driver when it is called: a build runs on machines without one. */
function findCuda() {
  if (onlyConformance || process.env.NVCC === 'none') return null;
  for (const name of [process.env.NVCC, 'nvcc', '/usr/local/cuda/bin/nvcc']) {
    if (!name) continue;
    const answer = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (answer.status !== 0) {
      if (name === process.env.NVCC) say(`NVCC=${name} does not run; trying the usual places`);
      continue;
    }
    const at = name.includes('/') ? name : spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).stdout.trim();
    const toolkit = path.resolve(path.dirname(realpathSync(at)), '..');
    const library = ['lib64', 'lib', 'targets/x86_64-linux/lib', 'targets/sbsa-linux/lib', 'lib/x86_64-linux-gnu', 'lib/aarch64-linux-gnu']
      .map((folder) => path.join(toolkit, folder, 'libcudart_static.a'))
      .find((file) => existsSync(file));
    if (library) return { name, version: answer.stdout, library };
    say(`no CUDA: ${name} has no libcudart_static.a beside it`);
  }
  return null;
}

/** Machine code for the generations that have cp.async, as far as this nvcc knows them, and PTX for later ones. Null: it knows none, or does not say. */
function cudaFlags(compiler, cuda) {
  const known = spawnSync(cuda.name, ['--list-gpu-arch'], { encoding: 'utf8' }).stdout;
  const generations = ['80', '90', '100'].filter((generation) => known.includes(`compute_${generation}\n`));
  const newest = generations.at(-1);
  if (!newest) return null;
  return [
    ...generations.flatMap((generation) => ['-gencode', `arch=compute_${generation},code=sm_${generation}`]),
    ...['-gencode', `arch=compute_${newest},code=compute_${newest}`],
    ...['-O3', '-std=c++17', '-ftz=true', '-fmad=false', '-prec-div=true', '-ccbin', compiler.name],
    ...['-Xcompiler', '-fPIC,-ffp-contract=off,-fvisibility=hidden'],
  ];
}

/** The texts of a file and of every header of ours that it includes, in a fixed order. */
function closure(file, seen = new Map()) {
  if (seen.has(file)) return seen;
  const text = readFileSync(file, 'utf8');
  seen.set(file, text);
  for (const [, name] of text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
    const included = path.resolve(path.dirname(file), name);
    if (existsSync(included)) closure(included, seen);
  }
  return seen;
}

function digest(parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex').slice(0, 24);
}

/** Files that speak Node-API: part of the addon, not of the programs. */
function isBinding(name) {
  return name.startsWith('napi');
}

function instructionSetOf(name) {
  return Object.keys(instructionSets).find((suffix) => name.endsWith(suffix)) ?? null;
}

/**
 * What to compile: name, compiler, flags, object path. The kernels for GPUs (`.cu`) are compiled by nvcc, where there is one, and by the C++ compiler, for the
 * emulation that tests run.
 */
function units(compiler, cuda) {
  const headers = createRequire(import.meta.url)('node-api-headers').include_dir;
  const unit = (command, version, name, file, flags) => {
    const texts = [...closure(file), ...(flags.includes(emulation) ? closure(emulation) : [])].map(
      ([at, text]) => path.basename(at) + text,
    );
    const key = digest([version, process.platform, process.arch, ...flags, ...texts]);
    return { command, name, file, flags, object: path.join(objects, `${name}-${key}.o`) };
  };
  const files = sources.flatMap((folder) =>
    readdirSync(folder)
      .sort()
      .map((name) => path.join(folder, name)),
  );
  return files.flatMap((file) => {
    const { name, ext, dir } = path.parse(file);
    const label = dir.endsWith('cuda') ? `cuda-${name}` : name;
    if (ext === '.cu') {
      const onGpu = cuda ? [unit(cuda.name, cuda.version + compiler.version, label, file, cuda.flags)] : [];
      const emulated =
        name === 'gpu'
          ? []
          : [unit(compiler.name, compiler.version, `emulated-${name}`, file, [...common, '-Wno-unknown-pragmas', '-x', 'c++'])];
      return [...onGpu, ...emulated];
    }
    if (ext !== '.cpp' || (process.arch !== 'x64' && instructionSetOf(name) !== null)) return [];
    const set = instructionSetOf(name);
    const flags = [
      ...common,
      ...(set ? instructionSets[set] : []),
      ...(isBinding(name) ? [`-I${headers}`, '-DNAPI_VERSION=8'] : []),
      ...(cuda && name === 'accelerator' ? ['-DSY_WITH_CUDA'] : []),
      ...(emulate && name === 'failure' ? ['-DSY_EMULATED_AVX512'] : []),
    ];
    return [unit(compiler.name, compiler.version, label, file, flags)];
  });
}

/** Runs a command to its end; its diagnostics are shown whole, never mixed with another's. */
function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    child.stdout.on('data', (chunk) => (text += chunk));
    child.stderr.on('data', (chunk) => (text += chunk));
    child.on('error', (error) => resolve({ ok: false, text: `${command}: ${error.message}\n` }));
    child.on('close', (status) => resolve({ ok: status === 0, text }));
  });
}

async function compile(unit) {
  const unfinished = `${unit.object}.${process.pid}`;
  const { ok, text } = await run(unit.command, [...unit.flags, '-c', unit.file, '-o', unfinished]);
  if (text) process.stderr.write(text);
  if (ok) renameSync(unfinished, unit.object);
  else rmSync(unfinished, { force: true });
  return ok;
}

async function compileAll(waiting) {
  // The largest files first, so that no thread is left alone with one at the end.
  const queue = waiting.slice().sort((a, b) => statSync(b.file).size - statSync(a.file).size);
  const failed = [];
  const thread = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) if (!(await compile(unit))) failed.push(unit.name);
  };
  await Promise.all(Array.from({ length: parallel }, thread));
  return failed;
}

async function link(compiler, target) {
  const unfinished = `${target.path}.${process.pid}`;
  const { ok, text } = await run(compiler.name, [
    ...target.flags,
    '-pthread',
    ...target.units.map((unit) => unit.object),
    ...target.libraries,
    '-o',
    unfinished,
  ]);
  if (text) process.stderr.write(text);
  if (ok) renameSync(unfinished, target.path);
  else rmSync(unfinished, { force: true });
  return ok;
}

/** Objects of older sources go, except recent ones: another build may be using them. */
function sweep(current) {
  const keep = new Set(current.map((unit) => path.basename(unit.object)));
  for (const name of readdirSync(objects)) {
    const at = path.join(objects, name);
    const found = statSync(at, { throwIfNoEntry: false }); // Another build may have renamed its file meanwhile.
    if (!keep.has(name) && found && Date.now() - found.mtimeMs > 600_000) rmSync(at, { force: true });
  }
}

const programs = ['conformance', 'bench', 'row-bench'];
const isProgram = (unit, program) => unit.name === program || unit.name.startsWith(`${program}-`);

/** What is linked of which units. */
function targetsOf(all, cuda) {
  const library = all.filter((unit) => !isBinding(unit.name) && !programs.some((program) => isProgram(unit, program)));
  const libraries = cuda ? [cuda.library, '-ldl', '-lrt'] : [];
  return [
    ...(onlyConformance
      ? []
      : [{ path: path.join(build, 'switchyard.node'), flags: shared, units: [...library, ...all.filter((unit) => isBinding(unit.name))] }]),
    ...(onlyConformance ? ['conformance'] : programs).map((program) => ({
      path: path.join(build, program),
      flags: sanitizers,
      units: [...library, ...all.filter((unit) => isProgram(unit, program))],
    })),
  ]
    .filter((target) => target.units.length > library.length)
    .map((target) => ({ ...target, libraries, key: digest([...target.flags, ...libraries, ...target.units.map((unit) => unit.object)]) }));
}

const upToDate = (target) =>
  existsSync(target.path) && existsSync(`${target.path}.key`) && readFileSync(`${target.path}.key`, 'utf8') === target.key;

/** A build with nothing to do writes nothing: whoever runs it may not be allowed to. */
function writeIfOther(file, text) {
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text);
}

/** Builds what is not up to date. False: something that a build without CUDA has too did not compile or link. Null: only the kernels for GPUs did not. */
async function buildAll(compiler, cuda) {
  const all = units(compiler, cuda);
  const stale = targetsOf(all, cuda).filter((target) => !upToDate(target));
  if (stale.length === 0) return true;
  for (const folder of [build, objects]) mkdirSync(folder, { recursive: true });
  const waiting = [...new Set(stale.flatMap((target) => target.units))].filter((unit) => !existsSync(unit.object));
  if (waiting.length > 0)
    say(
      `compiling ${waiting.length} of ${all.length} files with ${compiler.name} ${compiler.version.split('\n')[0]}${cuda ? ` and ${cuda.name}` : ''}`,
    );
  const failed = new Set(await compileAll(waiting));
  if (cuda && [...failed].some((name) => name.startsWith('cuda-'))) return null;
  let complete = true;
  // What can be linked is linked: a broken test program must not keep the addon from its users.
  for (const target of stale) {
    const broken = target.units.filter((unit) => failed.has(unit.name)).map((unit) => unit.name);
    if (broken.length > 0) say(`${path.basename(target.path)} was not built: ${broken.join(', ')} did not compile`);
    else if (await link(compiler, target)) writeFileSync(`${target.path}.key`, target.key);
    else say(`${path.basename(target.path)} was not built: it did not link`);
    if (!upToDate(target)) complete = false;
  }
  if (!emulate) sweep(all); // It shares objects with the build beside it.
  say(`${complete ? 'built' : 'failed'} in ${((Date.now() - started) / 1000).toFixed(1)} s`);
  return complete;
}

const compiler = findCompiler();
let cuda = findCuda();
if (cuda) {
  cuda.flags = cudaFlags(compiler, cuda);
  if (!cuda.flags) say(`no CUDA: ${cuda.name} does not say that it builds for compute capability 8.0 or newer`);
  if (!cuda.flags) cuda = null;
}
let complete = await buildAll(compiler, cuda);
if (complete === null) {
  say(`no CUDA: ${cuda.name} with ${compiler.name} does not compile its kernels (above); NVCC=none leaves them out from the beginning`);
  cuda = null;
  complete = await buildAll(compiler, null);
}
if (!complete) process.exit(1);
// Tests ask it; a program asks the kernels themselves.
if (!onlyConformance)
  writeIfOther(path.join(build, 'cuda.json'), `${JSON.stringify(cuda && { nvcc: cuda.name, version: cuda.version.trim() })}\n`);
