import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { IlpSolver, LinearProgram, SolveLimits, SolveResult } from './program.ts';

/**
 * HiGHS (compiled to WebAssembly) in a thread of its own: a solve blocks its thread, so the caller's event loop stays free, and terminating the thread ends a solve
 * at once. The thread's program is text, so that it runs the same from sources and from a build.
 */
const threadProgram = `
const { parentPort, workerData } = require('node:worker_threads');
let model = null;
let highs = null;
const ready = import(workerData.highs).then((m) => (typeof m.default === 'function' ? m.default : m.default.default)()).then((loaded) => { highs = loaded; });
const sparse = (rows, numCols) => {
  const starts = new Int32Array(rows.length + 1);
  rows.forEach((row, i) => { starts[i + 1] = starts[i] + row.columns.length; });
  const indices = new Int32Array(starts[rows.length]);
  const values = new Float64Array(starts[rows.length]);
  rows.forEach((row, i) => { indices.set(row.columns, starts[i]); values.set(row.values, starts[i]); });
  return { format: 'csr', numRows: rows.length, numCols, starts, indices, values };
};
const bounds = (rows) => ({
  rowLower: Float64Array.from(rows, (row) => row.lower),
  rowUpper: Float64Array.from(rows, (row) => row.upper),
});
const handle = {
  load({ program }) {
    if (model) model.dispose();
    const numCols = program.cost.length;
    const integer = program.integer.some(Boolean);
    model = highs.createModel({
      numCols,
      numRows: program.rows.length,
      sense: program.sense === 'max' ? highs.constants.objectiveSense.maximize : highs.constants.objectiveSense.minimize,
      colCost: Float64Array.from(program.cost),
      colLower: Float64Array.from(program.lower),
      colUpper: Float64Array.from(program.upper),
      ...bounds(program.rows),
      matrix: sparse(program.rows, numCols),
      ...(integer ? { integrality: Int32Array.from(program.integer, (i) => (i ? 1 : 0)) } : {}),
    });
    model.options.set({ output_flag: false, random_seed: 1 });
    handle.numCols = numCols;
    handle.integer = integer;
  },
  addRows({ rows }) {
    const { rowLower, rowUpper } = bounds(rows);
    model.addRows({ lower: rowLower, upper: rowUpper, matrix: sparse(rows, handle.numCols) });
  },
  run({ timeLimitMs, options }) {
    model.zeroAllClocks();
    model.options.set({ ...(Number.isFinite(timeLimitMs) ? { time_limit: timeLimitMs / 1000 } : {}), ...options });
    const { modelStatus } = model.run();
    const codes = highs.constants.modelStatus;
    const status = modelStatus === codes.optimal ? 'optimal' : modelStatus === codes.infeasible || modelStatus === codes.unboundedOrInfeasible ? 'infeasible' : 'limit';
    let solution = null;
    let objective = null;
    try {
      const has = status === 'optimal' || model.info.get('primal_solution_status') === 2;
      if (has) { solution = model.getSolution(); objective = model.getObjectiveValue(); }
    } catch { solution = null; }
    let bound = null;
    if (handle.integer) { try { bound = model.info.get('mip_dual_bound'); } catch { bound = null; } }
    else if (status === 'optimal') bound = objective;
    return { status, objective, bound, values: solution ? solution.colValue : null, rowDuals: !handle.integer && status === 'optimal' ? solution.rowDual : null };
  },
};
parentPort.on('message', async (message) => {
  try {
    await ready;
    parentPort.postMessage({ result: handle[message.kind](message) ?? null });
  } catch (error) {
    parentPort.postMessage({ error: String(error && error.message || error) });
  }
});
`;

/** The solver could not do it: no thread or no memory for it, or an error of its own. What it was asked for may still be had without it. */
export class SolverFailure extends Error {}

const solverFailure = (cause: unknown) => new SolverFailure(`highs: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });

/** One model in one thread: rows can be added and the solve goes on from the last basis. Close it when done. */
export class HighsSession {
  private readonly thread: Worker;
  private readonly signal: AbortSignal | undefined;
  private closed = false;

  constructor(signal?: AbortSignal) {
    this.signal = signal;
    const highs = pathToFileURL(createRequire(import.meta.url).resolve('highs')).href;
    try {
      this.thread = new Worker(threadProgram, { eval: true, workerData: { highs } });
    } catch (error) {
      throw solverFailure(error);
    }
  }

  async load(program: LinearProgram): Promise<void> {
    await this.ask({ kind: 'load', program });
  }

  async addRows(rows: LinearProgram['rows']): Promise<void> {
    await this.ask({ kind: 'addRows', rows });
  }

  async run(timeLimitMs: number, options: Record<string, string | number | boolean> = {}): Promise<SolveResult> {
    return (await this.ask({ kind: 'run', timeLimitMs, options })) as SolveResult;
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.thread.terminate();
  }

  private ask(message: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const done = () => {
        this.thread.off('message', answered);
        this.thread.off('error', failed);
        this.thread.off('exit', ended);
        this.signal?.removeEventListener('abort', aborted);
      };
      const answered = (answer: { result?: unknown; error?: string }) => {
        done();
        if (answer.error !== undefined) reject(solverFailure(answer.error));
        else resolve(answer.result);
      };
      const failed = (error: unknown) => {
        done();
        reject(solverFailure(error));
      };
      const ended = () => failed('the solver thread ended');
      const aborted = () => {
        void this.close();
        done();
        reject(new DOMException('aborted', 'AbortError'));
      };
      if (this.closed || this.signal?.aborted) return aborted();
      this.thread.on('message', answered);
      this.thread.on('error', failed);
      this.thread.on('exit', ended);
      this.signal?.addEventListener('abort', aborted);
      this.thread.postMessage(message);
    });
  }
}

/** What `use` makes of a session of its own; null where the solver failed or was aborted: for what goes on with the best that it has. */
export async function inSession<T>(signal: AbortSignal | undefined, use: (session: HighsSession) => Promise<T>): Promise<T | null> {
  let session: HighsSession | null = null;
  try {
    session = new HighsSession(signal);
    return await use(session);
  } catch (error) {
    if (error instanceof SolverFailure || signal?.aborted) return null;
    throw error;
  } finally {
    await session?.close();
  }
}

export const abortedResult: SolveResult = { status: 'aborted', objective: null, bound: null, values: null, rowDuals: null };

/** The default solver. */
export const highsSolver: IlpSolver = {
  name: 'highs',
  async solve(program: LinearProgram, limits: SolveLimits): Promise<SolveResult> {
    const session = new HighsSession(limits.signal);
    try {
      await session.load(program);
      return await session.run(limits.timeLimitMs, { mip_rel_gap: 0, mip_abs_gap: 1e-6 });
    } catch (error) {
      if (limits.signal?.aborted) return abortedResult;
      throw error;
    } finally {
      await session.close();
    }
  },
};
