// Reads the JSON report of a vitest run and prints one plain closing line, "N passed, N failed[, N skipped]". A test file that could not be loaded has no
// tests of its own and counts as one failure.
import { existsSync, readFileSync } from 'node:fs';

const [report, runStatus] = [process.argv[2], Number(process.argv[3] ?? 0)];
if (!report || !existsSync(report)) {
  process.stdout.write(`no test report at ${report}: the run ended before any test\n0 passed, 1 failed\n`);
  process.exit(1);
}
const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
const broken = testResults.filter((file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'));
for (const file of broken) process.stdout.write(`could not run ${file.name}: ${file.message.split('\n')[0]}\n`);
let failed = numFailedTests + broken.length;
if (failed === 0 && runStatus !== 0) {
  process.stdout.write(`the test run ended with exit status ${runStatus} although no test failed (an error outside the tests)\n`);
  failed = 1;
}
const skipped = numPendingTests + numTodoTests;
process.stdout.write(`${numPassedTests} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`);
process.exit(failed > 0 ? 1 : 0);
