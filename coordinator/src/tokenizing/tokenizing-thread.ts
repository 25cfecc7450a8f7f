/** The thread that tokenises long texts: a request in, its ids or its error out, one at a time. */
import { parentPort, workerData } from 'node:worker_threads';
import { type ErrorCode, SwitchyardError } from '@switchyard/proto';
import { DetailedError } from '../detailed-error.ts';
import { PromptEncoder, type PromptText } from './prompt-text.ts';
import { readTokenizerFolder } from './tokenizer-folder.ts';

export interface TokenizeJob {
  prompts: readonly PromptText[];
  tokensMax: number;
}

export type TokenizeResult =
  | { ids: Int32Array[] }
  | { code: ErrorCode; message: string; param: string | null; details: Record<string, number> };

const encoder = new PromptEncoder(readTokenizerFolder((workerData as { dir: string }).dir));

parentPort!.on('message', ({ prompts, tokensMax }: TokenizeJob) => {
  try {
    const ids = prompts.map((prompt) => Int32Array.from(encoder.encode(prompt, tokensMax)));
    parentPort!.postMessage(
      { ids } satisfies TokenizeResult,
      ids.map(({ buffer }) => buffer),
    );
  } catch (error) {
    const known = error instanceof SwitchyardError ? error : new SwitchyardError('internal', (error as Error).message);
    const { code, message, param } = known;
    parentPort!.postMessage({
      code,
      message,
      param,
      details: known instanceof DetailedError ? known.details : {},
    } satisfies TokenizeResult);
  }
});
