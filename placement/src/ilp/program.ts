/** A linear program, integer where marked: min or max cost x, rowLower <= A x <= rowUpper, lower <= x <= upper. Rows are sparse. */
export interface LinearProgram {
  sense: 'min' | 'max';
  cost: number[];
  lower: number[];
  upper: number[];
  integer: boolean[];
  rows: { lower: number; upper: number; columns: number[]; values: number[] }[];
}

export class ProgramBuilder {
  readonly program: LinearProgram;

  constructor(sense: 'min' | 'max') {
    this.program = { sense, cost: [], lower: [], upper: [], integer: [], rows: [] };
  }

  /** Adds a variable and returns its number. */
  column(cost: number, lower: number, upper: number, integer = false): number {
    const { program } = this;
    program.cost.push(cost);
    program.lower.push(lower);
    program.upper.push(upper);
    program.integer.push(integer);
    return program.cost.length - 1;
  }

  binary(cost = 0): number {
    return this.column(cost, 0, 1, true);
  }

  row(lower: number, upper: number, entries: readonly (readonly [column: number, value: number])[]): void {
    this.program.rows.push({ lower, upper, columns: entries.map(([c]) => c), values: entries.map(([, v]) => v) });
  }
}

export interface SolveLimits {
  timeLimitMs: number;
  signal?: AbortSignal;
}

export interface SolveResult {
  status: 'optimal' | 'limit' | 'infeasible' | 'aborted';
  /** Value of the best solution, or null. */
  objective: number | null;
  /** Proven bound where the solver reports one, else null. */
  bound: number | null;
  values: Float64Array | null;
  /** Duals of the rows, for linear programs that were solved to the end. */
  rowDuals: Float64Array | null;
}

export interface IlpSolver {
  readonly name: string;
  solve(program: LinearProgram, limits: SolveLimits): Promise<SolveResult>;
}
