import { readFileSync } from 'node:fs';
import { native, sharedMemory, yieldCore } from '@switchyard/native';
import { lingerAfterFrames, oncePerWish, SwitchyardError, useSharedMemory } from '@switchyard/proto';
import { loadModel } from './model/load.ts';
import { watchDevice } from './process/device-loss.ts';
import { compileEarly } from './process/early-compilation.ts';
import { flagsHelp, parseFlags } from './process/flags.ts';
import { stderrLog } from './process/log.ts';
import { watchParent } from './process/parent-watch.ts';
import { WorkerProcess } from './process/worker-process.ts';

/** The worker program. Exit status: 0 after an orderly stop, 1 when it failed, 2 for wrong flags. */
async function main(): Promise<number> {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };
  if (process.argv.includes('--version')) {
    process.stdout.write(`${version}\n`);
    return 0;
  }
  let flags: ReturnType<typeof parseFlags>;
  try {
    flags = parseFlags(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof SwitchyardError)) throw error;
    process.stderr.write(`worker: ${error.message}\nTry --help.\n`);
    return 2;
  }
  if (flags === null) {
    process.stdout.write(flagsHelp());
    return 0;
  }
  compileEarly();
  useSharedMemory(sharedMemory);
  lingerAfterFrames(yieldCore);
  const log = stderrLog(flags.name);
  if (flags.backend.startsWith('cuda'))
    watchDevice(native, (error) => {
      log('error', `the GPU is lost: ${error.message}`);
      process.exit(1);
    });
  const worker = new WorkerProcess({ flags, native, load: loadModel, version, log });
  const { graceMs } = flags;
  const stop = oncePerWish(
    (why: string) => {
      log('info', why);
      void worker.stop(graceMs);
    },
    () => process.exit(1),
  );
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => stop(signal));
  if (flags.supervised) {
    watchParent(() => {
      log('warn', 'the parent process is gone');
      process.exit(0);
    });
  }
  try {
    return await worker.run();
  } catch (error) {
    log('error', error instanceof Error ? error.message : String(error));
    return 1;
  }
}

process.exit(await main());
