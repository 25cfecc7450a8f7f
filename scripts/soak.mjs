// A cluster under mixed load while its workers are killed and stopped: `npm run soak -- [--minutes 10] [--seed N] [--only kill,freeze] [--json] [-- up-flags ...]`. Ends with 1 at the
// first answer that is not what one worker alone says, the first failure that nothing excuses, or what is left behind. The tests run a few rounds of it.
import { parseArgs } from 'node:util';
import { oncePerWish } from '../proto/dist/index.js';
import { disturbances } from '../test/soak/disturbances.mjs';
import { soak } from '../test/soak/soak.mjs';

const usage = `Usage: npm run soak -- [--minutes 10] [--seed N] [--only ${Object.keys(disturbances).join(',')}] [--json] [-- up-flags ...]\n`;

function optionsOf(args) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      minutes: { type: 'string', default: '10' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      only: { type: 'string', default: Object.keys(disturbances).join(',') },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const kinds = values.only.split(',');
  const unknown = kinds.find((kind) => !Object.hasOwn(disturbances, kind));
  if (unknown !== undefined) throw new Error(`--only ${unknown}: there are ${Object.keys(disturbances).join(', ')}`);
  const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
  if (!(minutes > 0)) throw new Error(`--minutes ${values.minutes}: must be above 0`);
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error(`--seed ${values.seed}: must be a whole number from 0`);
  if (positionals.some((flag) => flag.startsWith('--lossy'))) throw new Error('--lossy gives up what is compared here');
  return { ...values, kinds, minutes, seed, upFlags: positionals };
}

let options;
try {
  options = optionsOf(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`soak: ${error.message}\n${usage}`);
  process.exit(2);
}
if (options.help) {
  process.stdout.write(usage);
  process.exit(0);
}
const { minutes, seed, kinds, json, upFlags } = options;
const interrupt = new AbortController();
// The round that runs ends first; a second one ends at once, and with it all that was started.
const wish = oncePerWish(
  () => interrupt.abort(),
  () => process.exit(130),
);
for (const name of ['SIGINT', 'SIGTERM']) process.on(name, wish);
const untilMs = performance.now() + 60_000 * minutes;
if (!json) process.stdout.write(`soak: seed ${seed}, ${minutes} min; first what one worker alone answers\n`);
const counts = (failed) => Object.entries(failed).map(([code, count]) => `${count} ${code}`);
const result = await soak({
  ...{ seed, kinds, upFlags, signal: interrupt.signal },
  rounds: (round) => round === 0 || performance.now() < untilMs,
  onRound({ round, disturbance, whole, hungUp, failed, seconds }) {
    if (json) return;
    const failures = counts(failed);
    const words = [
      `${whole} as one worker answers`,
      `${hungUp} hung up on`,
      ...(failures.length > 0 ? [`failed: ${failures.join(', ')}`] : []),
    ];
    process.stdout.write(`round ${round}, ${disturbance}: ${words.join(', ')} (${seconds.toFixed(1)} s)\n`);
  },
});
if (json) process.stdout.write(`${JSON.stringify({ format: 'switchyard-soak', version: 1, seed, ...result })}\n`);
else {
  for (const line of result.wrong) process.stdout.write(`WRONG: ${line}\n`);
  process.stdout.write(`${result.rounds} rounds, ${result.whole} answers compared, ${result.wrong.length} wrong\n`);
}
process.exitCode = result.wrong.length > 0 ? 1 : interrupt.signal.aborted ? 130 : 0;
