/** The thread that tokenises long texts: a request in, its ids or its error out, one at a time. */
import { parentPort, workerData } from 'node:worker_threads';
import { SwitchyardError } from '@switchyard/proto';
import { PromptEncoder, type PromptText } from './prompt-text.ts';
import { readTokenizerFolder } from './tokenizer-folder.ts';

export interface TokenizeJob {
  id: number;
  prompt: PromptText;
}

export type TokenizeResult = { id: number; ids: Int32Array } | { id: number; code: string; message: string; param: string | null };

const encoder = new PromptEncoder(readTokenizerFolder((workerData as { dir: string }).dir));

parentPort!.on('message', ({ id, prompt }: TokenizeJob) => {
  try {
    const ids = Int32Array.from(encoder.encode(prompt));
    parentPort!.postMessage({ id, ids } satisfies TokenizeResult, [ids.buffer]);
  } catch (error) {
    const known = error instanceof SwitchyardError ? error : new SwitchyardError('internal', (error as Error).message);
    parentPort!.postMessage({ id, code: known.code, message: known.message, param: known.param } satisfies TokenizeResult);
  }
});
