/**
 * MessagePack, walked rather than loaded: maps, lists, numbers and text become values, while the bytes of binary
 * and extension objects stay in the file. Depth and the number of objects are bounded.
 */
import { brief, formatBytes, InputError } from '../engine/errors.ts';
import { type ByteSource, Cursor } from './read.ts';

/** Binary data, or text where it is long: bytes begin..end (exclusive) of the file. */
export class MsgpackBytes {
  constructor(
    readonly begin: number,
    readonly end: number,
  ) {}

  toString(): string {
    return `${this.end - this.begin} bytes`;
  }
}

/** Reads an extension object: its payload is bytes begin..end (exclusive). */
export type MsgpackExtension = (code: number, begin: number, end: number, path: readonly string[]) => unknown;

const deepest = 100;
/** A number on the stack of a map or list, with V8's overhead. */
const nodeBytes = 96;
const budget = 512 * 2 ** 20;
/** Longer text is left in the file. */
const longestText = 1 << 16;

/** A reader of one file; extensions may hold objects of their own. */
export class Msgpack {
  private readonly cursor: Cursor;
  private spent = 0;
  /** Objects under way that hold objects of their own bytes: of extensions, which leave the path as it is. */
  private nested = 0;

  constructor(
    source: Uint8Array | ByteSource,
    private readonly label: string,
    private readonly extension: MsgpackExtension,
  ) {
    this.cursor = new Cursor(source, 0, (wanted, left) =>
      this.error(`truncated: ${wanted} bytes are wanted, ${left} are left`),
    );
  }

  error(problem: string): InputError {
    return new InputError(`${this.label}: msgpack, byte ${this.cursor.at}: ${problem}`);
  }

  /** The whole file as one object: Map, array, number, bigint, string, boolean, null, MsgpackBytes or an extension. */
  file(): unknown {
    return this.object(0, this.cursor.size, []);
  }

  /** The object that fills bytes begin..end (exclusive). @throws InputError when it ends elsewhere */
  object(begin: number, end: number, path: readonly string[]): unknown {
    const back = this.cursor.at;
    this.cursor.at = begin;
    if (++this.nested > deepest) throw this.error(`it nests more than ${deepest} levels`);
    const value = this.next([...path]);
    this.nested--;
    if (this.cursor.at !== end) {
      const after = end - this.cursor.at;
      throw this.error(
        after > 0 ? `${after} bytes follow its end` : `an object ends ${-after} bytes too late`,
      );
    }
    this.cursor.at = back;
    return value;
  }

  private next(path: string[]): unknown {
    this.spent += nodeBytes;
    if (this.spent > budget)
      throw this.error(`its structure needs more than ${formatBytes(budget)}; this is no file of weights`);
    const { cursor } = this;
    const first = cursor.take(1)[0] as number;
    if (first < 0x80) return first;
    if (first >= 0xe0) return first - 256;
    if (first < 0x90) return this.map(first & 15, path);
    if (first < 0xa0) return this.list(first & 15, path);
    if (first < 0xc0) return this.text(first & 31);
    switch (first) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.bytes(this.unsigned((1 << (first - 0xc4)) as 1 | 2 | 4));
      case 0xc7:
      case 0xc8:
      case 0xc9:
        return this.extended(this.unsigned((1 << (first - 0xc7)) as 1 | 2 | 4), path);
      case 0xca:
        return this.view(4).getFloat32(0);
      case 0xcb:
        return this.view(8).getFloat64(0);
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.unsigned((1 << (first - 0xcc)) as 1 | 2 | 4);
      case 0xcf:
        return narrow(this.view(8).getBigUint64(0));
      case 0xd0:
        return this.view(1).getInt8(0);
      case 0xd1:
        return this.view(2).getInt16(0);
      case 0xd2:
        return this.view(4).getInt32(0);
      case 0xd3:
        return narrow(this.view(8).getBigInt64(0));
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.extended(1 << (first - 0xd4), path);
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.text(this.unsigned((1 << (first - 0xd9)) as 1 | 2 | 4));
      case 0xdc:
      case 0xdd:
        return this.list(this.unsigned(first === 0xdc ? 2 : 4), path);
      case 0xde:
      case 0xdf:
        return this.map(this.unsigned(first === 0xde ? 2 : 4), path);
      default:
        throw this.error('0xc1 is no object of msgpack');
    }
  }

  private map(count: number, path: string[]): Map<string, unknown> {
    this.enter(2 * count, path);
    const map = new Map<string, unknown>();
    for (let i = 0; i < count; i++) {
      const key = this.next(path);
      if (typeof key !== 'string' && typeof key !== 'number')
        throw this.error(`a map in ${brief(path.join('.'))} has a key that is neither text nor a number`);
      const name = String(key);
      path.push(name);
      if (map.has(name)) throw this.error(`${brief(path.join('.'))} is there twice`);
      map.set(name, this.next(path));
      path.pop();
    }
    return map;
  }

  private list(count: number, path: string[]): unknown[] {
    this.enter(count, path);
    const items: unknown[] = [];
    for (let i = 0; i < count; i++) {
      path.push(String(i));
      items.push(this.next(path));
      path.pop();
    }
    return items;
  }

  /** A container of `count` objects, each of a byte or more. */
  private enter(count: number, path: readonly string[]): void {
    if (path.length >= deepest) throw this.error(`it nests more than ${deepest} levels`);
    const left = this.cursor.size - this.cursor.at;
    if (count > left) throw this.error(`truncated: ${count} objects are to follow, ${left} bytes are left`);
  }

  private text(length: number): string | MsgpackBytes {
    if (length > longestText) return this.bytes(length);
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.cursor.take(length));
  }

  private bytes(length: number): MsgpackBytes {
    const begin = this.cursor.at;
    this.cursor.skip(length);
    return new MsgpackBytes(begin, this.cursor.at);
  }

  private extended(length: number, path: readonly string[]): unknown {
    const code = this.view(1).getInt8(0);
    const { begin, end } = this.bytes(length);
    return this.extension(code, begin, end, path);
  }

  private view(n: number): DataView {
    const bytes = this.cursor.take(n);
    return new DataView(bytes.buffer, bytes.byteOffset, n);
  }

  private unsigned(n: 1 | 2 | 4): number {
    const view = this.view(n);
    return n === 1 ? view.getUint8(0) : n === 2 ? view.getUint16(0) : view.getUint32(0);
  }
}

/** A number where it is exact. */
function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
