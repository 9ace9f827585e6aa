import { formatBytes, OutOfMemoryError } from './errors.ts';

/**
 * Storage buffers by size class. A released buffer is reused at once: the queue runs in order, so whatever still
 * reads it was recorded earlier. Nothing waits for the garbage collector, and Dawn gives memory back only on
 * `queue.submit`, so `trim` ends with an empty one.
 */
export class BufferPool {
  readonly #free = new Map<number, GPUBuffer[]>();
  /** Bytes of buffers handed out. */
  liveBytes = 0;
  /** Bytes of buffers waiting for reuse. */
  freeBytes = 0;
  peakBytes = 0;
  /** GPUBuffers created since the start; flat while a loop runs without leaks. */
  created = 0;

  constructor(
    readonly device: GPUDevice,
    readonly limit: number,
    readonly usage: GPUBufferUsageFlags,
    readonly onError: (error: Error) => void,
  ) {}

  /** @param label what needs it, for the error message */
  acquire(bytes: number, label: string): GPUBuffer {
    const size = sizeClass(bytes);
    if (bytes > this.limit) {
      throw new OutOfMemoryError(
        `${label}: needs ${formatBytes(bytes)} in one buffer, the adapter has ${formatBytes(this.limit)}; use a smaller batch or K`,
      );
    }
    let buffer = this.#free.get(size)?.pop();
    if (buffer) this.freeBytes -= buffer.size;
    else buffer = this.#create(Math.min(size, this.limit), label);
    if (buffer.size === 0) throw new OutOfMemoryError(`${label}: allocation of ${formatBytes(bytes)} failed`);
    this.liveBytes += buffer.size;
    return buffer;
  }

  release(buffer: GPUBuffer): void {
    const size = sizeClass(buffer.size);
    const list = this.#free.get(size);
    if (list) list.push(buffer);
    else this.#free.set(size, [buffer]);
    this.liveBytes -= buffer.size;
    this.freeBytes += buffer.size;
  }

  trim(): void {
    for (const list of this.#free.values()) for (const buffer of list) buffer.destroy();
    this.#free.clear();
    this.freeBytes = 0;
    this.device.queue.submit([]);
  }

  #create(size: number, label: string): GPUBuffer {
    this.created++;
    const guarded = size >= 4 << 20;
    if (guarded) this.device.pushErrorScope('out-of-memory');
    const buffer = this.device.createBuffer({ size, usage: this.usage, label });
    if (guarded) {
      this.device.popErrorScope().then((error) => {
        if (error) {
          const held = formatBytes(this.liveBytes + this.freeBytes);
          this.onError(
            new OutOfMemoryError(
              `${label}: needs ${formatBytes(size)}, the device is full (${held} held); use a smaller batch or K`,
            ),
          );
        }
      }, this.onError);
    }
    this.peakBytes = Math.max(this.peakBytes, this.liveBytes + this.freeBytes + size);
    return buffer;
  }
}

/** Multiples of 256 B up to 4 KiB, then eight classes an octave: at most 12.5 % is wasted. */
export function sizeClass(bytes: number): number {
  const step = bytes <= 4096 ? 256 : 2 ** (Math.floor(Math.log2(bytes)) - 3);
  return Math.max(256, Math.ceil(bytes / step) * step);
}
