import type { ErrorCode } from './errors.ts';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';

/** Checks of the fields of one kind of document that people and programs write as JSON. What does not hold is refused with the field, its value and its limit. */
export interface DocumentFields {
  refusal(field: string, value: unknown, limit: string | number): SwitchyardError;
  record(field: string, value: unknown): Record<string, unknown>;
  list(field: string, value: unknown, min: number, max: number): unknown[];
  integer(field: string, value: unknown, min: number, max: number): number;
  /** At least 0 and finite. */
  amount(field: string, value: unknown): number;
  /** Above 0 and finite. */
  positive(field: string, value: unknown): number;
  /** 1 to `limits.nameLengthMax` characters. */
  name(field: string, value: unknown): string;
}

/** @param document what the file is, such as "plan": every message begins with it */
export function documentFields(document: string, code: ErrorCode): DocumentFields {
  const refusal = (field: string, value: unknown, limit: string | number): SwitchyardError => {
    const shown = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? 'absent').slice(0, 100);
    return new SwitchyardError(code, `${document}: ${field} is ${shown}, must be ${limit}`, { param: field });
  };
  const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);
  return {
    refusal,
    record(field, value) {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refusal(field, value, 'an object');
      return value as Record<string, unknown>;
    },
    list(field, value, min, max) {
      if (!Array.isArray(value)) throw refusal(field, value, 'a list');
      if (value.length < min || value.length > max) throw refusal(`${field}.length`, value.length, min === max ? min : `${min}..${max}`);
      return value;
    },
    integer(field, value, min, max) {
      if (!Number.isInteger(value) || (value as number) < min || (value as number) > max)
        throw refusal(field, value, `an integer in ${min}..${max}`);
      return value as number;
    },
    amount(field, value) {
      if (!isNumber(value) || value < 0) throw refusal(field, value, 'a number of at least 0');
      return value;
    },
    positive(field, value) {
      if (!isNumber(value) || value <= 0) throw refusal(field, value, 'a number above 0');
      return value;
    },
    name(field, value) {
      if (typeof value !== 'string' || value.length < 1 || value.length > limits.nameLengthMax)
        throw refusal(field, value, `text of 1..${limits.nameLengthMax}`);
      return value;
    },
  };
}
