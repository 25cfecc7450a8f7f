import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/**
 * The parts and what each may import of the others and of npm: the direction of dependency, executable.
 *
 *   cli ──▶ coordinator ──▶ placement ──▶ proto ◀── worker ──▶ native
 */
const layers: Record<string, { ours: string[]; npm: string[]; never: { what: RegExp; why: string }[] }> = {
  proto: { ours: [], npm: ['@grpc/grpc-js', '@nats-io/transport-node', 'protobufjs'], never: [] },
  native: {
    ours: [],
    npm: ['node-api-headers'],
    never: [{ what: /from 'node:(net|http|http2|https|tls|dgram)'/, why: 'kernels know no network' }],
  },
  placement: {
    ours: ['proto'],
    npm: ['highs'],
    never: [
      {
        what: /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(|\bhrtime\b/,
        why: 'reads no clock: time is given, so that a plan follows from its inputs',
      },
      { what: /\bMath\.random\(/, why: 'randomness comes from a seed' },
      { what: /from 'node:(net|http|http2|https|tls|dgram|child_process|cluster)'/, why: 'opens no socket and knows no process' },
    ],
  },
  worker: {
    ours: ['proto', 'native'],
    npm: [],
    never: [{ what: /from 'node:(http|https|http2)'/, why: 'parses no HTTP' }],
  },
  coordinator: {
    ours: ['proto', 'placement'],
    npm: ['fastify', 'prom-client', 'zod', 'pino', '@huggingface/tokenizers', '@huggingface/jinja'],
    never: [],
  },
  cli: { ours: ['proto', 'placement', 'coordinator', 'worker', 'native'], npm: ['commander', 'picocolors', 'cli-progress'], never: [] },
};

/** Lines of a source file; longer ones hold more than one idea. C++ names a flat ABI's every function once, and has the headers' weight to carry. */
const linesMax = (file: string) => (/\.(cpp|h|hpp|c|cu)$/.test(file) ? 800 : 500);

interface Import {
  file: string;
  line: number;
  specifier: string;
}

/** Files that git knows or would add: what the repository is, without build products. */
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
  maxBuffer: 64 * 1024 * 1024,
})
  .split('\n')
  .filter((file) => file !== '' && existsSync(path.join(root, file)));
const sourcesOf = (part: string) => files.filter((file) => file.startsWith(`${part}/src/`) && /\.(ts|mts|js|mjs)$/.test(file));
const read = (file: string) => readFileSync(path.join(root, file), 'utf8');

function importsOf(file: string): Import[] {
  const text = read(file);
  const found: Import[] = [];
  const pattern =
    /(?:^|[\s;}])(?:import|export)\s[^'"`;]*?from\s*['"]([^'"]+)['"]|(?:^|[\s;}])import\s*['"]([^'"]+)['"]|\b(?:import|require|createRequire\([^)]*\))\s*\(\s*['"]([^'"]+)['"]/g;
  for (const match of text.matchAll(pattern)) {
    const specifier = match[1] ?? match[2] ?? match[3];
    found.push({ file, line: text.slice(0, match.index).split('\n').length, specifier });
  }
  return found;
}

/** "@grpc/grpc-js/build/x" → "@grpc/grpc-js"; "node:fs" and "fs" → null. */
function packageOf(specifier: string): string | null {
  if (specifier.startsWith('node:') || builtinModules.includes(specifier.split('/')[0])) return null;
  const parts = specifier.split('/');
  return specifier.startsWith('@') ? parts.slice(0, 2).join('/') : parts[0];
}

/** Why an import breaks the table, or null. */
function violation(part: string, { file, specifier }: Import): string | null {
  const layer = layers[part];
  if (specifier.startsWith('.')) {
    const target = path.posix.join(path.posix.dirname(file), specifier);
    return target.startsWith(`${part}/`) ? null : `leaves ${part}/: parts meet through their packages`;
  }
  const name = packageOf(specifier);
  if (name === null) return null;
  if (name.startsWith('@switchyard/')) {
    const other = name.slice('@switchyard/'.length);
    if (!layer.ours.includes(other)) return `${part} may not import ${other}; it may import ${layer.ours.join(', ') || 'none of ours'}`;
    return specifier === name ? null : 'reaches inside another part: only its index is public';
  }
  return layer.npm.includes(name) ? null : `${part} may not import ${name} from npm; it may import ${layer.npm.join(', ') || 'nothing'}`;
}

describe('layer table', () => {
  it('finds the sources it is about', () => {
    for (const part of Object.keys(layers)) expect(sourcesOf(part).length, part).toBeGreaterThan(0);
    expect(importsOf('proto/src/grpc-stream.ts').map((i) => i.specifier)).toEqual(
      expect.arrayContaining(['@grpc/grpc-js', './errors.ts', './frame-inbox.ts']),
    );
  });

  it.each([
    ['proto', '@switchyard/native'],
    ['placement', '@switchyard/worker'],
    ['worker', '@switchyard/coordinator'],
    ['coordinator', '@switchyard/native'],
    ['coordinator', '../../worker/src/index.ts'],
    ['worker', '@switchyard/proto/dist/link.js'],
    ['placement', 'fastify'],
    ['proto', 'lodash'],
  ])('would notice %s importing %s', (part, specifier) => {
    expect(violation(part, { file: `${part}/src/x.ts`, line: 1, specifier })).not.toBeNull();
  });

  it.each([
    ['cli', '@switchyard/coordinator'],
    ['worker', './kv/block.ts'],
    ['proto', 'protobufjs/minimal.js'],
    ['placement', 'node:fs'],
  ])('lets %s import %s', (part, specifier) => {
    expect(violation(part, { file: `${part}/src/x.ts`, line: 1, specifier })).toBeNull();
  });

  it.each(Object.keys(layers))('is kept by the imports of %s', (part) => {
    const broken = sourcesOf(part)
      .flatMap(importsOf)
      .map((i) => [i, violation(part, i)] as const)
      .filter(([, why]) => why !== null)
      .map(([i, why]) => `${i.file}:${i.line} imports ${i.specifier}: ${why}`);
    expect(broken).toEqual([]);
  });

  it.each(Object.keys(layers))('is kept by the dependencies of %s/package.json', (part) => {
    const { dependencies = {} } = JSON.parse(read(`${part}/package.json`)) as { dependencies?: Record<string, string> };
    const allowed = [...layers[part].ours.map((other) => `@switchyard/${other}`), ...layers[part].npm];
    expect(Object.keys(dependencies).filter((name) => !allowed.includes(name))).toEqual([]);
  });

  it.each(Object.keys(layers))('finds every package that %s imports in its package.json', (part) => {
    const { dependencies = {} } = JSON.parse(read(`${part}/package.json`)) as { dependencies?: Record<string, string> };
    const used = new Set(
      sourcesOf(part)
        .flatMap(importsOf)
        .filter((i) => !i.specifier.startsWith('.'))
        .map((i) => packageOf(i.specifier)),
    );
    expect([...used].filter((name) => name !== null && !(name in dependencies))).toEqual([]);
  });

  it.each(Object.entries(layers).filter(([, layer]) => layer.never.length > 0))(
    'keeps out of %s what it should never know',
    (part, { never }) => {
      const found = sourcesOf(part).flatMap((file) =>
        never.filter(({ what }) => what.test(withoutComments(read(file)))).map(({ what, why }) => `${file} has ${what}: ${why}`),
      );
      expect(found).toEqual([]);
    },
  );

  it('has no circular imports inside a part', () => {
    for (const part of Object.keys(layers)) expect(cycleIn(part), part).toBeNull();
  });
});

describe('tidy', () => {
  const written = files.filter((file) => /\.(ts|mts|mjs|js|cpp|h|hpp|c|cu|proto)$/.test(file) && !file.startsWith('bench/results/'));
  const prose = files.filter((file) => /\.(md|ya?ml|json|toml|sh|css|html)$/.test(file));

  it.each([
    ['an unfinished mark', new RegExp(`\\b(${['TO', 'FIX', 'XX'].map((w, i) => w + ['DO', 'ME', 'X'][i]).join('|')})\\b`)],
    ['a path outside the repository', new RegExp(`\\.\\./${'shared'}\\b|/${'work'}/`)],
  ])('holds no file with %s', (_, pattern) => {
    const found = [...written, ...prose].filter((file) => file !== 'package-lock.json').filter((file) => pattern.test(read(file)));
    expect(found).toEqual([]);
  });

  it('holds no source file that is too long', () => {
    const long = written.map((file) => [file, read(file).split('\n').length] as const).filter(([file, lines]) => lines > linesMax(file));
    expect(long).toEqual([]);
  });

  it('names files by nouns, in kebab-case', () => {
    const odd = files
      .filter((file) => /\/src\/.*\.ts$/.test(file) && !file.startsWith('worker/src/model/families/')) // those have the names that checkpoints use
      .filter(
        (file) =>
          !/^[a-z0-9]+(-[a-z0-9]+)*(\.d)?\.ts$/.test(path.basename(file)) ||
          /^(utils?|helpers?|misc|common)\.ts$/.test(path.basename(file)),
      );
    expect(odd).toEqual([]);
  });

  it('imports types as types', () => {
    // verbatimModuleSyntax leaves value imports in the output, so an import of types only must say so or it costs a load at run time.
    expect(JSON.parse(read('tsconfig.base.json')).compilerOptions).toMatchObject({
      verbatimModuleSyntax: true,
      erasableSyntaxOnly: true,
      strict: true,
    });
  });
});

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
}

/** Files of a cycle of value imports, or null. Type imports are erased, so they may go round. */
function cycleIn(part: string): string[] | null {
  const edges = new Map(sourcesOf(part).map((file) => [file, valueImports(file)]));
  const state = new Map<string, 'open' | 'done'>();
  const visit = (file: string, trail: string[]): string[] | null => {
    if (state.get(file) === 'done') return null;
    if (state.get(file) === 'open') return [...trail.slice(trail.indexOf(file)), file];
    state.set(file, 'open');
    for (const next of edges.get(file) ?? []) {
      const cycle = visit(next, [...trail, file]);
      if (cycle !== null) return cycle;
    }
    state.set(file, 'done');
    return null;
  };
  for (const file of edges.keys()) {
    const cycle = visit(file, []);
    if (cycle !== null) return cycle;
  }
  return null;
}

function valueImports(file: string): string[] {
  const text = withoutComments(read(file)).replace(/\b(?:import|export)\s+type\s[^'"]*['"][^'"]+['"]/g, '');
  return [...text.matchAll(/(?:import|export)\s([^'"`;]*?)from\s*['"](\.[^'"]+)['"]/g)]
    .filter(([, names]) => !/^\{(\s*type\s+\w+(\s+as\s+\w+)?\s*,?)+\}\s*$/.test(names.trim()))
    .map(([, , specifier]) => path.posix.join(path.posix.dirname(file), specifier));
}
