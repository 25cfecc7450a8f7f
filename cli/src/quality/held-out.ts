import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { CommandFailure, exitStatus } from '../failure.ts';
import { checkFolder } from '../terminal/model-folder.ts';

/** Text that a model was not trained on, by domain, and questions with the one answer that counts. */
export interface HeldOut {
  domains: { name: string; text: string }[];
  questions: { question: string; answer: string }[];
}

/** Reads a folder of `<domain>.txt` and, where there is one, `which-book.json`. */
export function readHeldOut(dir: string): HeldOut {
  checkFolder(dir, `--held-out ${dir}`);
  const domains = readdirSync(dir)
    .filter((name) => name.endsWith('.txt'))
    .sort()
    .map((name) => ({ name: name.slice(0, -'.txt'.length), text: readFileSync(path.join(dir, name), 'utf8') }));
  const questionFile = path.join(dir, 'which-book.json');
  const questions = existsSync(questionFile) ? readQuestions(questionFile) : [];
  if (domains.length === 0 && questions.length === 0)
    throw new CommandFailure(`--held-out ${dir}: it has neither *.txt nor which-book.json`, { status: exitStatus.usage });
  return { domains, questions };
}

function readQuestions(file: string): HeldOut['questions'] {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as HeldOut['questions'];
  } catch (error) {
    throw new CommandFailure(`--held-out: ${file}: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Windows of `size` tokens that overlap by one: every token but the very first is predicted exactly once, from up to size - 1 before it. How the bundled
 * model's README measured its reference figures.
 */
export function predictionWindows(ids: readonly number[], size: number): number[][] {
  const windows: number[][] = [];
  for (let from = 0; from + 1 < ids.length; from += size - 1) windows.push(ids.slice(from, from + size));
  return windows;
}
