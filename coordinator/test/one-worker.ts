import path from 'node:path';
import { type RunningCoordinator, startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';
import { ScriptedWorker } from './scripted-worker.ts';

let serial = 0;

/**
 * A coordinator of the bundled model and its only worker, which is ready.
 *
 * @param folder where their socket is
 * @param ready what the worker says of itself
 */
export async function startWithOneWorker(
  folder: string,
  config: Partial<Parameters<typeof startCoordinator>[0]> = {},
  ready: Parameters<ScriptedWorker['ready']>[0] = {},
  name = 'n0w0',
  takeLog?: (line: string) => void,
): Promise<{ coordinator: RunningCoordinator; worker: ScriptedWorker }> {
  const control = `unix:${path.join(folder, `one-${serial++}.sock`)}`;
  const coordinator = await startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent', ...config }, takeLog);
  const worker = await ScriptedWorker.join(control, name);
  worker.ready(ready);
  await worker.next('peers');
  return { coordinator, worker };
}
