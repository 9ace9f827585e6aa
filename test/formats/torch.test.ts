import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readCheckpoint } from '../../src/formats/checkpoint.ts';
import { root } from '../support.ts';
import { fuzzAsync, opened, refusesAsync } from './fuzz.ts';
import { makeZip, type ZipPart } from './make-zip.ts';

const folder = join(root, 'test', 'fixtures', 'formats');
const load = (name: string) => new Uint8Array(readFileSync(join(folder, name)));
const latin1 = (text: string) => Buffer.from(text, 'latin1');
const u32 = (n: number) => String.fromCharCode(n & 255, (n >> 8) & 255, (n >> 16) & 255, n >>> 24);
const text = (s: string) => `X${u32(s.length)}${s}`;
const int = (n: number) => (n < 2 ** 31 ? `J${u32(n)}` : `\x8a\x08${u32(n % 2 ** 32)}${u32(n / 2 ** 32)}`);
const ints = (values: readonly number[]) => `(${values.map(int).join('')}t`;

/** The pickle of one tensor, of storage "0". */
function tensorCode(
  { sizes = [2, 2], strides = [2, 1], offset = 0, elements = 4, type = 'FloatStorage', key = '0' } = {},
  view = '',
): string {
  const id = `(${text('storage')}ctorch\n${type}\n${text(key)}${text('cpu')}${int(elements)}${view}tQ`;
  return `ctorch._utils\n_rebuild_tensor_v2\n(${id}${int(offset)}${ints(sizes)}${ints(strides)}\x89}tR`;
}

const numbers = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);

function archive(
  code: string,
  parts: readonly ZipPart[] = [{ name: 'any/data/0', data: numbers }],
): Uint8Array {
  return makeZip([{ name: 'any/data.pkl', data: latin1(`\x80\x02${code}.`) }, ...parts]);
}
const open = (bytes: Uint8Array) => readCheckpoint(opened(bytes), 'f.pt');
const refused = (bytes: Uint8Array, ...parts: string[]) =>
  refusesAsync(() => open(bytes), 'f.pt: ', ...parts);

test('views of a storage', async () => {
  const values = async (given: Parameters<typeof tensorCode>[0]) => [
    ...(await open(archive(tensorCode(given)))).floats('tensor'),
  ];
  assert.equal(await values({}), [1, 2, 3, 4]);
  assert.equal(await values({ strides: [1, 2] }), [1, 3, 2, 4]);
  assert.equal(await values({ sizes: [2], strides: [2], offset: 1 }), [2, 4]);
  assert.equal(await values({ sizes: [2, 3], strides: [1, 0], offset: 2 }), [3, 3, 3, 4, 4, 4]);
  assert.equal(await values({ sizes: [], strides: [], offset: 3 }), [4]);
  assert.equal(await values({ sizes: [0, 5], strides: [5, 1], offset: 0 }), []);
  assert.equal(await values({ sizes: [1, 4], strides: [99, 1] }), [1, 2, 3, 4]);
});

test('deflated storages, and those of the other byte order', async () => {
  const swapped = new Uint8Array(numbers).reverse();
  const parts = [
    { name: 'any/data/0', data: swapped, deflate: true },
    { name: 'any/byteorder', data: latin1('big') },
  ];
  const checkpoint = await open(archive(tensorCode({ sizes: [2], strides: [1], offset: 1 }), parts));
  assert.equal([...checkpoint.floats('tensor')], [3, 2]);
});

test('untyped storages take the type that the tensor names', async () => {
  const id = `(${text('storage')}ctorch.storage\nUntypedStorage\n${text('0')}${text('cpu')}${int(16)}tQ`;
  const tensor = `ctorch._utils\n_rebuild_tensor_v3\n(${id}${int(1)}${ints([3])}${ints([1])}\x89}ctorch\nfloat32\ntR`;
  assert.equal([...(await open(archive(tensor))).floats('tensor')], [2, 3, 4]);
});

test('a tensor stays inside its storage', async () => {
  const bad = (given: Parameters<typeof tensorCode>[0], ...parts: string[]) =>
    refused(archive(tensorCode(given)), ...parts);
  await bad({ sizes: [2, 3] }, 'ends at byte 20 of storage "0", which has 16');
  await bad({ offset: 1 }, 'offset 1', 'byte 20', '16');
  await bad({ strides: [3, 1] }, 'strides (3, 1)', 'byte 20');
  await bad({ sizes: [2 ** 40, 2 ** 40] }, 'ends at byte');
  await bad({ sizes: [-1, 2] }, 'sizes (-1, 2)', 'at least 0');
  await bad({ strides: [-1, 1] }, 'strides (-1, 1)');
  await bad({ strides: [1] }, 'as many strides as sizes');
  await bad({ sizes: [2 ** 40, 2 ** 40], strides: [0, 0] }, 'expanded from 4 elements', 'contiguous');
  await bad({ elements: 5 }, 'needs 20 bytes, it has 16');
  await bad({ elements: 3 }, 'needs 12 bytes, it has 16');
  await bad({ type: 'DoubleStorage' }, '4 F64, needs 32 bytes');
  await bad({ key: '1' }, 'truncated', 'any/data/1');
  await bad({ type: 'ComplexFloatStorage' }, 'uses torch.ComplexFloatStorage');
  await refused(
    archive(`(${tensorCode()}${tensorCode({ elements: 2, type: 'DoubleStorage' })}t`),
    'described as',
  );
  await refused(archive(tensorCode({}, `(${text('v')}${int(2)}${int(3)}t`)), 'a view of storage "0"');
});

test('what is not a plain checkpoint is refused by name', async () => {
  await refused(archive('cos\nsystem\n)R'), 'uses os.system', 'save a state_dict');
  await refused(archive('cmodels\nResNet\n)\x81'), 'uses models.ResNet');
  await refused(archive('K\x01Q'), "('storage', type, key, location, size) is wanted");
  await refused(archive('N', [{ name: 'any/constants.pkl', data: latin1('') }]), 'TorchScript');
  await refused(archive('N', [{ name: 'other/data.pkl', data: latin1('') }]), '2 entries');
  await refused(archive('N', [{ name: 'any/byteorder', data: latin1('middle') }]), '"middle"');
  const cyclic = `]q\x00h\x00a`;
  await refused(archive(cyclic), 'contains itself');
  await refused(archive(`${')'.repeat(1)}${'\x85'.repeat(200)}`), 'nests more than 100 levels');
  // Each list holds the one before twice: 2^60 leaves.
  const bomb = `]N\x85a${Array.from({ length: 60 }, () => '2\x86').join('')}`;
  await refused(archive(bomb), 'entries; this is no file of weights');
  const twice = `}${text('a')}}${text('b')}${tensorCode()}ss${text('a.b')}${tensorCode()}s`;
  await refused(archive(twice), '"a.b" names two tensors');
});

test('damaged archives are refused', async () => {
  const good = archive(tensorCode());
  await refused(good.subarray(0, good.length - 30), 'not a whole zip archive');
  const part = (more: Partial<ZipPart>) =>
    archive(tensorCode(), [{ name: 'any/data/0', data: numbers, ...more }]);
  await refused(part({ size: 17 }), 'zip');
  await refused(part({ deflate: true, size: 1 << 30 }), 'which deflate cannot');
  await refused(part({ method: 12 }), 'method 12');
  await refused(part({ flags: 1, deflate: true }), 'encrypted');
  const twice = [
    { name: 'any/data/0', data: numbers },
    { name: 'any/data/0', data: numbers },
  ];
  await refused(archive(tensorCode(), twice), '"any/data/0" is there twice');
  for (const more of [{ crc: 1 }, { deflate: true, size: 16, crc: 1 }]) {
    const checkpoint = await open(part(more));
    await refusesAsync(async () => checkpoint.floats('tensor'), 'f.pt: entry "any/data/0"', 'CRC-32');
  }
  // Of a storage that tensors share each reads a part, and the whole is checked.
  const shared = await open(
    archive(tensorCode({ sizes: [2], strides: [1], offset: 1 }), [
      { name: 'any/data/0', data: numbers, crc: 1 },
    ]),
  );
  await refusesAsync(async () => shared.floats('tensor'), 'f.pt: entry "any/data/0"', 'CRC-32');
  // An archive that claims 16 bytes where 4 MiB are is stopped at 16.
  const bomb = await open(
    archive(tensorCode(), [{ name: 'any/data/0', data: new Uint8Array(1 << 22), deflate: true, size: 16 }]),
  );
  await refusesAsync(async () => bomb.floats('tensor'), 'does not inflate to its 16 bytes');
});

test('the older format: order and ends of storages', async () => {
  const magic = '\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.';
  const count = (n: number) => `${u32(n)}${u32(0)}`;
  const data = Buffer.from(numbers).toString('latin1');
  const keys = (...names: string[]) => `\x80\x02](${names.map(text).join('')}e.`;
  const file = (tensors: string, rest: string) => latin1(`${magic}\x80\x02${tensors}.${rest}`);
  const good = await open(file(tensorCode(), `${keys('0')}${count(4)}${data}`));
  assert.is(good.format, 'torch-legacy');
  assert.equal([...good.floats('tensor')], [1, 2, 3, 4]);
  // A storage that is a part of another one.
  const view = tensorCode({ sizes: [2], strides: [1], offset: 0 }, `(${text('v')}${int(1)}${int(2)}t`);
  const part = await open(file(view, `${keys('0')}${count(4)}${data}`));
  assert.equal([...part.floats('tensor')], [2, 3]);
  const outside = tensorCode({ sizes: [2], strides: [1], offset: 1 }, `(${text('v')}${int(1)}${int(2)}t`);
  await refused(file(outside, `${keys('0')}${count(4)}${data}`), 'which has 12');

  await refused(file(tensorCode(), `${keys('0')}${count(4)}${data}x`), '1 bytes follow');
  await refused(file(tensorCode(), `${keys('0')}${count(4)}${data.slice(1)}`), 'truncated: storage "0" ends');
  await refused(file(tensorCode(), `${keys('0')}${count(5)}${data}`), 'has 5 elements, the pickle says 4');
  await refused(file(tensorCode(), keys('0')), 'truncated: storage "0" begins');
  await refused(file(tensorCode(), keys()), 'has no storage "0"');
  await refused(file(tensorCode(), `${keys('9')}`), 'storage "9" that no tensor uses');
  await refused(file(tensorCode(), `${keys('0', '0')}${count(4)}${data}`), 'twice');
  await refused(file(tensorCode(), '\x80\x02N.'), 'no list of storages');
  await refused(latin1('\x80\x02N.'), 'a pickle of Python, but not a checkpoint of PyTorch');
  await refused(latin1(magic.replace('M\xe9\x03', 'M\xea\x03')), 'protocol 1002');
});

test('damaged files are read or refused', async () => {
  const read = async (bytes: Uint8Array) => {
    const checkpoint = await readCheckpoint(opened(bytes), 'fuzz');
    for (const name of checkpoint.names) assert.ok(checkpoint.floats(name).length <= 2 ** 20);
  };
  const zip = archive(`}(${text('a')}${tensorCode()}${text('b')}${tensorCode({ strides: [1, 2] })}u`);
  await fuzzAsync(zip, read, zip.length, 300);
  const real = load('torch-zip.pt');
  await fuzzAsync(real, read, 2500, 150);
  const legacy = load('torch-legacy.pth');
  await fuzzAsync(legacy, read, legacy.length, 300);
});

test.run();
