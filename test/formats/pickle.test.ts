import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type NumpyArray, type PickleOptions, unpickle } from '../../src/formats/pickle.ts';
import { openFile } from '../../src/formats/read.ts';
import { root } from '../support.ts';
import { fuzz, refuses } from './fuzz.ts';

const folder = join(root, 'test', 'fixtures', 'formats');
const path = (name: string) => join(folder, name);

/** Pickle code: strings are opcodes, numbers bytes. */
function code(...parts: (string | number)[]): Uint8Array {
  return Buffer.concat(parts.map((p) => (typeof p === 'number' ? Buffer.of(p) : Buffer.from(p, 'latin1'))));
}
const read = (bytes: Uint8Array, options?: PickleOptions) => unpickle(bytes, 'f.pkl', options);
const refused = (bytes: Uint8Array, ...parts: string[]) => refuses(() => read(bytes), 'f.pkl: ', ...parts);

/** A map of what make_formats.py calls `plain`. */
function checkPlain(value: unknown): void {
  assert.instance(value, Map);
  const map = value as Map<string, unknown>;
  assert.is(map.get('none'), null);
  assert.equal(map.get('flags'), [true, false]);
  assert.equal(map.get('integers'), [
    0,
    255,
    256,
    65536,
    -1,
    2 ** 31,
    -(2 ** 31),
    2 ** 53 - 1,
    2n ** 70n,
    -(2n ** 70n),
  ]);
  const floats = map.get('floats') as number[];
  assert.equal(floats.slice(2), [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 1e300]);
  assert.ok(floats[0] === 1.5 && Object.is(floats[1], -0));
  assert.equal(map.get('text'), ['', 'n\xefve € \u{1f600}\n\\\'"', 'x'.repeat(300)]);
  const bytes = (map.get('bytes') as Uint8Array[]).map((b) => [...b]);
  assert.equal(bytes, [[], [0, 0x80, 0xff], Array(300).fill(0x79)]);
  assert.equal([...(map.get('bytearray') as Uint8Array)], [97, 98, 99]);
  assert.equal(map.get('tuples'), [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]);
  assert.equal(map.get('sets'), [new Set([1, 2]), new Set([3])]);
  assert.equal(
    [...(map.get('ordered') as Map<string, number>)],
    [
      ['b', 1],
      ['a', 2],
    ],
  );
  assert.equal([...(map.get('default') as Map<number, unknown>)], [[1, [2]]]);
  assert.equal(map.get('complex'), [1, 2]);
  const array = (name: string) => (map.get(name) as NumpyArray).array(name);
  assert.equal(array('array'), { shape: [2, 3], data: Float32Array.of(0, 1, 2, 3, 4, 5) });
  assert.equal(array('fortran'), { shape: [2, 3], data: Float64Array.of(0, 1, 2, 3, 4, 5) });
  assert.equal(array('big'), { shape: [3], data: Uint16Array.of(0, 1, 2) });
  assert.is(map.get('number'), 2.5);
  const cyclic = map.get('cyclic') as unknown[];
  assert.is(cyclic[1], cyclic);
}

test('every protocol gives the same values, from memory and from a file', () => {
  for (let protocol = 0; protocol <= 5; protocol++) {
    const name = path(`protocol${protocol}.pkl`);
    checkPlain(unpickle(readFileSync(name), name));
    const file = openFile(name);
    checkPlain(unpickle(file, name));
    file.close();
  }
});

test('a batch of CIFAR-10, as Python 2 wrote it', () => {
  const batch = unpickle(readFileSync(path('python2.pkl')), 'batch') as Map<string, unknown>;
  const { shape, data } = (batch.get('data') as NumpyArray).array('data');
  assert.equal(shape, [2, 3072]);
  assert.equal(
    data,
    Uint8Array.from({ length: 2 * 3072 }, (_, i) => (7 * i) % 256),
  );
  assert.equal(batch.get('labels'), [6, 9]);
  assert.is(batch.get('batch_label'), 'training batch 1 of 5');
});

test('nothing outside the table can be reached', () => {
  refused(code("cos\nsystem\n(S'echo'\ntR."), 'byte 0', 'uses os.system', 'nothing was run');
  refused(code('\x80\x04\x8c\x02os\x8c\x06system\x93.'), 'uses os.system');
  refused(code('c__builtin__\neval\n.'), 'uses builtins.eval');
  refused(code('cbuiltins\ngetattr\n.'), 'uses builtins.getattr');
  refused(code("(S'x'\nios\nsystem\n."), 'uses os.system');
  refused(code('cconstructor\nprototype\n.'), 'uses constructor.prototype');
  refused(code('c\n__proto__\n.'), 'uses .__proto__');
  refused(code('cx\n\x1b[31m\xff\n.'), 'uses x.\\u001b[31m');
  refused(code('cnumpy\nndarray\n)R.'), 'numpy.ndarray, which may only be named');
  refused(code('K\x01)R.'), 'calls something that is no function');
  refused(code('\x82\x01.'), 'opcode 0x82');
  refused(code('\x97.'), 'opcode 0x97');
  refused(code('K\x01Q.'), 'outside of it');
});

test('the caller allows functions and resolves persistent ids', () => {
  const options: PickleOptions = {
    globals: { 'my.double': ([x]) => 2 * (x as number), 'my.name': null },
    persistentLoad: (id) => `<${id}>`,
  };
  assert.is(read(code('cmy\ndouble\nK\x15\x85R.'), options), 42);
  assert.is(String(read(code('cmy\nname\n.'), options)), 'my.name');
  assert.is(read(code('K\x07Q.'), options), '<7>');
  assert.is(read(code('Pabc\n.'), options), '<abc>');
  refuses(
    () => read(code('cmy\nother\n.'), { ...options, advice: '; do otherwise' }),
    'uses my.other',
    '; do otherwise',
  );
});

test('lengths are checked before memory is taken', () => {
  refused(code('T\xff\xff\xff\xff'), 'a text has 4294967295 bytes');
  refused(code('T\xff\xff\xff\x0fabc.'), 'truncated: 268435455 bytes', '4 are left');
  refused(code('B\xff\xff\xff\xff.'), 'truncated: 4294967295');
  refused(code(`\x8e${'\xff'.repeat(8)}.`), 'truncated');
  refused(code(`\x96${'\xff'.repeat(7)}\x00.`), 'truncated');
  refused(code(`\x8d${'\x7f'.repeat(8)}.`), 'at most');
  refused(code(`\x95${'\x7f'.repeat(8)}.`), 'a frame has');
  refused(code('\x8b\xff\xff\xff\x7f.'), 'at most 1024');
  refused(code(`I${'1'.repeat(5000)}\n.`), '4096');
  refused(code('S'), 'a line does not end');
  refused(code('cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.'), 'neither bytes nor text');
  // A list that doubles itself, and bytes made again and again, stop at the budget.
  const small = { budget: 1 << 20 };
  refuses(() => read(code(']'.repeat(10_000)), small), 'more than 1.0 MiB');
  const again = `U\xff${'x'.repeat(255)}q\x00${'0c_codecs\nencode\nh\x00\x85R'.repeat(3000)}.`;
  refuses(() => read(code(again), small), 'more than 1.0 MiB');
  // A number of an unknown type whose bytes are kept, again and again.
  const dtype = 'cnumpy\ndtype\nU\x02V1\x85Rq\x01';
  const text = `X\x00\x20\x00\x00${'x'.repeat(8192)}q\x02`;
  const scalars = `${dtype}${text}00cnumpy.core.multiarray\nscalar\nq\x030${'h\x03h\x01h\x02\x86R'.repeat(300)}.`;
  refuses(() => read(code(scalars), small), 'more than 1.0 MiB');
});

test('damaged structure is refused with its place', () => {
  refused(code(''), 'byte 0', 'truncated');
  refused(code('.'), 'stack is empty');
  refused(code('NN.'), 'leaves 1 values');
  refused(code('(N.'), 'open mark');
  refused(code('(0N.N'), '1 bytes follow');
  refused(code('(0a.'), 'stack is empty');
  refused(code('t.'), 'no mark');
  refused(code('h\x05.'), 'recalls entry 5');
  refused(code('\x80\x06N.'), 'protocol 6');
  refused(code('NNa.'), 'no list');
  refused(code('NNNs.'), 'no dict');
  refused(code('(Nd.'), 'key without a value');
  refused(code('NN\x85b.'), 'has none');
  refused(code('Fx\n.'), '"x" is no float');
  refused(code('I1.5\n.'), '"1.5" is no integer');
  refused(code('Sabc\n.'), 'no quoted text');
  const dtype = 'cnumpy\ndtype\nU\x02f4\x85R';
  const array = (state: string) => code(`cnumpy.core.multiarray\n_reconstruct\n)R(K\x01${state}tb.`);
  refused(array(`K\x02\x85${dtype}\x89U\x03abc`), 'f4', '(2) needs 8 bytes, it has 3');
  refused(array(`J\xff\xff\xff\xff\x85${dtype}\x89U\x00`), 'shape (-1)');
  const huge = 'M\xff\xff'.repeat(8);
  refused(array(`(${huge}t${dtype}\x89U\x00`), 'bytes, it has 0');
  refused(array(`K\x02\x85N\x89U\x00`), 'no dtype');
  const text = read(array(`K\x02\x85cnumpy\ndtype\nU\x02U5\x85R\x89U\x03abc`)) as NumpyArray;
  refuses(() => text.array('f.pkl'), 'dtype <U5 is not supported');
});

test('damaged files are read or refused', () => {
  for (const name of ['protocol0.pkl', 'protocol2.pkl', 'protocol4.pkl', 'python2.pkl']) {
    const good = new Uint8Array(readFileSync(path(name)));
    const file = name === 'python2.pkl' ? Uint8Array.of(...good.subarray(0, 300)) : good;
    fuzz(file, (bytes) => unpickle(bytes, 'fuzz', { budget: 1 << 24 }), file.length, 300);
  }
});

test.run();
