/** Memory that two processes map. JavaScript cannot map any, so whoever starts the program provides this (`native` has it). */
export interface SharedRegion {
  /** How another process of this user can map it, while it has its name. */
  name: string;
  memory: ArrayBuffer;
  /** Nobody else can map it any more. */
  unname(): void;
  /** Ends this process's mapping; `memory` is empty from here on. */
  release(): void;
}

export interface SharedMemory {
  create(bytes: number): SharedRegion;
  /** @throws unless `name` is that of a region of exactly `bytes` bytes whose size nobody can change */
  open(name: string, bytes: number): SharedRegion;
}
