/** The program: `switchyard coordinator`. Prints one line of JSON on stdout once it listens; logs go to stderr. */
import { oncePerWish, SwitchyardError } from '@switchyard/proto';
import { type Config, help, readConfig } from './config.ts';
import { type RunningCoordinator, startCoordinator } from './coordinator.ts';
import { version } from './version.ts';

const USAGE_STATUS = 2;

async function main(args: readonly string[]): Promise<void> {
  if (args.includes('--help')) return void process.stdout.write(help());
  if (args.includes('--version')) return void process.stdout.write(`${version}\n`);
  const config = orExit(USAGE_STATUS, () => readConfig(args, process.env));
  const coordinator = await startCoordinator(config).catch((error: unknown) => exit(1, error));
  const { url, controlAddress, healthUrl } = coordinator;
  process.stdout.write(`${JSON.stringify({ event: 'listening', url, control: controlAddress, health: healthUrl })}\n`);
  endOnSignals(coordinator, config);
}

/** SIGTERM, SIGINT and SIGHUP (the terminal was closed): running requests may end within the grace; another one, a second later or more, ends at once. */
function endOnSignals(coordinator: RunningCoordinator, config: Config): void {
  const end = oncePerWish(
    () => void coordinator.close().then(() => process.exit(0)),
    () => process.exit(1),
  );
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, end);
  if (!config.supervised) return;
  process.stdin.resume();
  process.stdin.on('end', end);
  process.stdin.on('error', end);
}

function orExit<T>(status: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    return exit(status, error);
  }
}

function exit(status: number, error: unknown): never {
  process.stderr.write(
    `switchyard coordinator: ${error instanceof SwitchyardError ? error.message : String((error as Error).stack ?? error)}\n`,
  );
  process.exit(status);
}

await main(process.argv.slice(2));
