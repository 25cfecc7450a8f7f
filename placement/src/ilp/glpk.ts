import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { SwitchyardError } from '@switchyard/proto';
import { abortedResult } from './highs.ts';
import type { IlpSolver, LinearProgram, SolveLimits, SolveResult } from './program.ts';

/** GLPK's constants that are used here (glpk.h). */
const direction = { min: 1, max: 2 };
const boundKind = { free: 1, lower: 2, upper: 3, double: 4, fixed: 5 };

const threadProgram = `
const { parentPort, workerData } = require('node:worker_threads');
import(workerData.glpk).then(async ({ default: load }) => {
  const glpk = await load();
  parentPort.postMessage(await glpk.solve(workerData.lp, workerData.options));
}).catch((error) => parentPort.postMessage({ error: String(error && error.message || error) }));
`;

/** The second solver, glpk.js. It is GPL-3.0, so only tests of a checkout depend on it; whoever uses this package installs it himself. @throws not_found where it is not installed */
export function glpkSolver(): IlpSolver {
  const glpk = glpkIn(createRequire(import.meta.url).resolve.paths('glpk.js') ?? []);
  return { name: 'glpk.js', solve: (program, limits) => solveWithGlpk(glpk, program, limits) };
}

/** URL of the module in the first of these `node_modules` that has it: its export is for `import` only, so it is found through its folder. */
export function glpkIn(folders: readonly string[]): string {
  const found = folders.map((folder) => path.join(folder, 'glpk.js', 'dist', 'glpk.js')).find((file) => existsSync(file));
  if (found === undefined) throw new SwitchyardError('not_found', 'glpk.js is not installed: npm install glpk.js', { param: 'solver' });
  return pathToFileURL(found).href;
}

async function solveWithGlpk(glpk: string, program: LinearProgram, limits: SolveLimits): Promise<SolveResult> {
  const columns = program.cost.map((_, i) => `x${i}`);
  const bounds = (lower: number, upper: number) => {
    if (lower === upper) return { type: boundKind.fixed, lb: lower, ub: upper };
    if (lower === -Infinity && upper === Infinity) return { type: boundKind.free, lb: 0, ub: 0 };
    if (upper === Infinity) return { type: boundKind.lower, lb: lower, ub: 0 };
    if (lower === -Infinity) return { type: boundKind.upper, lb: 0, ub: upper };
    return { type: boundKind.double, lb: lower, ub: upper };
  };
  const lp = {
    name: 'placement',
    objective: { direction: direction[program.sense], name: 'cost', vars: columns.map((name, i) => ({ name, coef: program.cost[i] })) },
    subjectTo: program.rows.map((row, r) => ({
      name: `r${r}`,
      vars: row.columns.map((c, i) => ({ name: columns[c], coef: row.values[i] })),
      bnds: bounds(row.lower, row.upper),
    })),
    bounds: columns.map((name, i) => ({ name, ...bounds(program.lower[i], program.upper[i]) })),
    generals: columns.filter((_, i) => program.integer[i]),
  };
  const options = {
    msglev: 0,
    presol: true,
    mipgap: 0,
    ...(Number.isFinite(limits.timeLimitMs) ? { tmlim: Math.max(1, Math.ceil(limits.timeLimitMs / 1000)) } : {}),
  };
  const thread = new Worker(threadProgram, { eval: true, workerData: { glpk, lp, options } });
  try {
    const answer = await new Promise<{
      error?: string;
      result?: { status: number; z: number; vars: Record<string, number>; dual?: Record<string, number> };
    } | null>((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', reject);
      limits.signal?.addEventListener('abort', () => resolve(null), { once: true });
      if (limits.signal?.aborted) resolve(null);
    });
    if (answer === null) return abortedResult;
    if (answer.result === undefined) throw new Error(`glpk.js: ${answer.error ?? 'no result'}`);
    const { status, z, vars, dual } = answer.result;
    const values = Float64Array.from(columns, (name) => vars[name] ?? 0);
    if (status === 5) {
      const rowDuals = dual === undefined ? null : Float64Array.from(program.rows, (_, r) => dual[`r${r}`] ?? 0);
      return { status: 'optimal', objective: z, bound: z, values, rowDuals };
    }
    if (status === 2) return { status: 'limit', objective: z, bound: null, values, rowDuals: null };
    return { ...abortedResult, status: status === 4 || status === 3 ? 'infeasible' : 'limit' };
  } finally {
    await thread.terminate();
  }
}
