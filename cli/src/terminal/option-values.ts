import { type Backend, backendNames, hostNamesPattern, isBackend, parseLossy } from '@switchyard/proto';
import { InvalidArgumentError } from 'commander';
import { parseBytes } from './quantity.ts';

/** Parsers for commander options. Their message ends up after the option's own name: "option '--port <port>' argument 'x' is invalid. …". */
export function integerIn(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most)
      throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
    return value;
  };
}

export function numberIn(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= least && value <= most))
      throw new InvalidArgumentError(`It must be a number from ${least} to ${most}.`);
    return value;
  };
}

export function integerList(least: number, most: number): (text: string) => number[] {
  const one = integerIn(least, most);
  return (text) => text.split(',').map((part) => one(part.trim()));
}

export function byteCount(text: string): number {
  const bytes = parseBytes(text);
  if (bytes === null) throw new InvalidArgumentError('It must be a size like 512M or 2GiB.');
  return bytes;
}

export function nonEmpty(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

export function hostNames(text: string): string {
  if (!hostNamesPattern.test(text)) throw new InvalidArgumentError('It must be names without ports, with commas between, or *.');
  return text;
}

/** "cpu" or "cuda:0,cuda:1": as many as there are kinds of workers, which take them in turn. */
export function backendList(text: string): Backend[] {
  const names = text.split(',').map((name) => name.trim());
  if (!names.every(isBackend)) throw new InvalidArgumentError(`It must be ${backendNames}, or several with commas between.`);
  return names;
}

/** Adds to what an option that may be repeated has collected. */
export function collect(text: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), text];
}

/** "node-limit=2,wire=int8", checked. */
export function lossyList(text: string): string {
  try {
    parseLossy(text);
  } catch (error) {
    throw new InvalidArgumentError(`${(error as Error).message}.`);
  }
  return text;
}
