/** How much of what was known a step leaves valid: what is older than some fifty steps hardly counts. */
const MEMORY = 0.98;
/** Until steps of different sizes tell: a step takes as long as so many rows more. */
const FIXED_ROWS = 8;
/** However times vary, a row is not taken for cheaper than if the rest of a step were so many rows: rows also cost the workers that compute them for others. */
const FIXED_ROWS_MAX = 48;
/** Variance of rows at which the latest steps and that assumption count alike. Without drafts for a while it is assumed again, and tried. */
const DOUBT = 0.25;
/** A step that took so many times the usual has met something else: garbage, another program. */
const OUTLIER = 3;

/**
 * What a decode step takes by its rows, `fixedMs + rows * rowMs`, fitted to the latest steps by least squares. The first part is what rows share: round trips to other
 * workers, weights that are read once.
 */
export class StepCost {
  private weight = 0;
  private meanRows = 0;
  private meanMs = 0;
  private variance = 0;
  private covariance = 0;

  add(rows: number, ms: number): void {
    const took = this.weight === 0 ? ms : Math.min(ms, OUTLIER * this.meanMs);
    this.weight = this.weight * MEMORY + 1;
    const share = 1 / this.weight;
    const rowsOff = rows - this.meanRows;
    const msOff = took - this.meanMs;
    this.meanRows += share * rowsOff;
    this.meanMs += share * msOff;
    this.variance = (1 - share) * (this.variance + share * rowsOff * rowsOff);
    this.covariance = (1 - share) * (this.covariance + share * rowsOff * msOff);
  }

  get rowMs(): number {
    const { variance, covariance, meanMs, meanRows } = this;
    if (meanRows === 0) return 0;
    const assumed = meanMs / (meanRows + FIXED_ROWS);
    const fitted = (covariance + DOUBT * assumed) / (variance + DOUBT);
    return Math.min(Math.max(fitted, meanMs / (meanRows + FIXED_ROWS_MAX)), meanMs / meanRows);
  }

  /** Expected time of a step of so many rows; 0 before the first was seen. */
  ms(rows: number): number {
    return this.meanMs + (rows - this.meanRows) * this.rowMs;
  }
}
