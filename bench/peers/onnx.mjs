/** The little of the ONNX file format (protocol buffers) that a graph of a few nodes needs. */
const text = new TextEncoder();

function varint(n) {
  const bytes = [];
  let v = BigInt.asUintN(64, BigInt(n));
  do {
    bytes.push(Number(v & 127n) | (v > 127n ? 128 : 0));
    v >>= 7n;
  } while (v > 0n);
  return bytes;
}

/** One field: a number, a string, or bytes of a message inside. */
function field(number, value) {
  if (typeof value === 'number') return [...varint(number << 3), ...varint(value)];
  const bytes = typeof value === 'string' ? text.encode(value) : value;
  return [...varint((number << 3) | 2), ...varint(bytes.length), ...bytes];
}

function float(number, value) {
  return [...varint((number << 3) | 5), ...new Uint8Array(Float32Array.of(value).buffer)];
}

/** AttributeProto of an integer, integers, or { float }. */
function attribute(name, value) {
  const named = field(1, name);
  if (typeof value === 'number') return [...named, ...field(3, value), ...field(20, 2)];
  if (Array.isArray(value)) return [...named, ...value.flatMap((v) => field(8, v)), ...field(20, 7)];
  return [...named, ...float(2, value.float), ...field(20, 1)];
}

/** { op, inputs, outputs, attributes } as NodeProto. */
function nodeProto({ op, inputs, outputs, attributes = {} }) {
  return [
    ...inputs.flatMap((name) => field(1, name)),
    ...outputs.flatMap((name) => field(2, name)),
    ...field(4, op),
    ...Object.entries(attributes).flatMap(([name, value]) => field(5, attribute(name, value))),
  ];
}

/** ValueInfoProto of a float32 tensor. */
function valueInfo(name, shape) {
  const dims = shape.flatMap((d) => field(1, field(1, d)));
  return [...field(1, name), ...field(2, field(1, [...field(1, 1), ...field(2, dims)]))];
}

/**
 * A ModelProto of opset 21 (IR version 10).
 * @param nodes in order of execution
 * @param inputs shapes by name
 * @param outputs shapes by name
 */
export function onnxModel(nodes, inputs, outputs) {
  const graph = [
    ...nodes.flatMap((n) => field(1, nodeProto(n))),
    ...field(2, 'bench'),
    ...Object.entries(inputs).flatMap(([name, shape]) => field(11, valueInfo(name, shape))),
    ...Object.entries(outputs).flatMap(([name, shape]) => field(12, valueInfo(name, shape))),
  ];
  return Uint8Array.from([...field(1, 10), ...field(7, graph), ...field(8, field(2, 21))]);
}
