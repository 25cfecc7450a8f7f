/** One thing that `doctor` looked at. `fix` says what to do about a warning or a failure, in one line. */
export interface Check {
  name: string;
  /** `absent` is something optional that is not there or not used: nothing is wrong. */
  status: 'ok' | 'warning' | 'failed' | 'absent';
  found: string;
  fix: string | null;
}

export function ok(name: string, found: string): Check {
  return { name, status: 'ok', found, fix: null };
}

export function warning(name: string, found: string, fix: string): Check {
  return { name, status: 'warning', found, fix };
}

export function failed(name: string, found: string, fix: string): Check {
  return { name, status: 'failed', found, fix };
}
