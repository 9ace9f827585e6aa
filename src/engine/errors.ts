/**
 * Every failure a user can cause or meet is one of these. The message is one line: what, where, the numbers,
 * the way out. The command line prints the message alone; anything that is not a CmapError is a bug and keeps
 * its stack.
 */
export class CmapError extends Error {
  override name = 'CmapError';
}

/** Shapes or arguments of an operation do not fit. `op: argument: what, with numbers`. */
export class ShapeError extends CmapError {
  override name = 'ShapeError';
}

/** A file, flag or configuration given by the user is not usable. */
export class InputError extends CmapError {
  override name = 'InputError';
}

/** No usable adapter, or not the one that was asked for. */
export class AdapterError extends CmapError {
  override name = 'AdapterError';
}

/** A buffer exceeds the device's limits or memory: "needs X, has Y". */
export class OutOfMemoryError extends CmapError {
  override name = 'OutOfMemoryError';
}

/** The device was lost; nothing on it can be read any more. */
export class DeviceLostError extends CmapError {
  override name = 'DeviceLostError';
}

/** WGSL did not compile or a pipeline was refused; `source` has line numbers. */
export class KernelError extends CmapError {
  override name = 'KernelError';
  constructor(
    message: string,
    readonly source: string,
  ) {
    super(message);
  }
}

/** Fails with a ShapeError unless `condition` holds; the message is built only on failure. */
export function check(condition: unknown, message: () => string): asserts condition {
  if (!condition) throw new ShapeError(message());
}

/** 1536 -> "1.5 KiB". */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${unit === 0 ? bytes : bytes.toFixed(1)} ${units[unit]}`;
}

/** A value as JSON for a message, of at most `most` characters. */
export function brief(value: unknown, most = 60): string {
  const text = JSON.stringify(value) ?? 'not set';
  return text.length > most ? `${text.slice(0, most - 3)}...` : text;
}
