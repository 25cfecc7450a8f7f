import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { CommandFailure, exitStatus } from '../failure.ts';
import { checkFolder } from '../terminal/model-folder.ts';
import { readText } from '../terminal/text-file.ts';

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
    .map((name) => ({ name: name.slice(0, -'.txt'.length), text: readText(path.join(dir, name), `--held-out: ${path.join(dir, name)}`) }));
  const questionFile = path.join(dir, 'which-book.json');
  const questions = existsSync(questionFile) ? readQuestions(questionFile) : [];
  if (domains.length === 0 && questions.length === 0)
    throw new CommandFailure(`--held-out ${dir}: it has neither *.txt nor which-book.json`, { status: exitStatus.usage });
  return { domains, questions };
}

function readQuestions(file: string): HeldOut['questions'] {
  const text = readText(file, `--held-out: ${file}`);
  try {
    const questions = JSON.parse(text) as unknown;
    if (Array.isArray(questions) && questions.every(isQuestion)) return questions;
    throw new Error('it is no list of objects, each with a "question" and its "answer" in words');
  } catch (error) {
    throw new CommandFailure(`--held-out: ${file}: ${(error as Error).message}`, { status: exitStatus.usage, cause: error });
  }
}

function isQuestion(item: { question?: unknown; answer?: unknown } | null): boolean {
  return typeof item?.question === 'string' && typeof item.answer === 'string';
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
