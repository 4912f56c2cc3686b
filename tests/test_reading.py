"""What is read is what nnU-Net's reader classes read: numbers, header words, order in memory."""

import gzip
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from support import assert_same

from atlas_nnunet import reading, reoriented
from atlas_nnunet.errors import GeometryError, LabelMapError, SourceError
from atlas_nnunet.reading import ITK, TURNED, Header, read_images, read_labels

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

NIBABEL = [name for name in TURNED if name != ITK]
SHAPE = (4, 5, 6)  # (i, j, k)
TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
OBLIQUE = np.array(
    [[0.97, -0.2, 0.1, 3], [0.2, 1.9, -0.3, -7], [-0.05, 0.3, 2.8, 11], [0, 0, 0, 1]]
)


def stock(reader, files):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    return recursive_find_reader_writer_by_name(reader)().read_images([str(f) for f in files])


def assert_read_as_stock(reader, files):
    ours, properties = read_images(reader, files)
    theirs, theirs_properties = stock(reader, files)
    assert_same(ours, theirs)
    assert_same(properties, theirs_properties)
    assert strides(ours) == strides(theirs), "the sum of an array depends on its order in memory"
    assert ours.flags.owndata or ours.base.flags.owndata, "no view into something larger"
    return ours


def strides(array):
    return [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1]


def affine_of(axes, signs, spacing=(0.8, 1.5, 3.0)):
    """File axis a runs along world axis axes[a], in direction signs[a]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for a in range(3):
        affine[axes[a], a] = signs[a] * spacing[a]
    affine[:3, 3] = -20.5, 7.25, 101
    return affine


def numbers(dtype, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return (rng.normal(0, 1000, shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def save(path, array, affine=OBLIQUE, *, slope=None, inter=None, pixdim=None, kind=nib.Nifti1Image):
    image = kind(array, affine, dtype=array.dtype)
    data = bytearray(image.to_bytes())
    header = kind.header_class(bytes(data[: kind.header_class.sizeof_hdr]))
    if slope is not None:
        header["scl_slope"], header["scl_inter"] = slope, inter
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    data[: kind.header_class.sizeof_hdr] = header.binaryblock
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def with_affine(path, affine):
    """A file with an sform that no tool would write."""
    header = nib.Nifti1Image(numbers("int16"), np.eye(4)).header
    header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(240)))
    return path


@pytest.mark.parametrize("reader", NIBABEL)
def test_every_orientation(tmp_path, reader):
    assert len(ORIENTATIONS) == 48
    for number, (axes, signs) in enumerate(ORIENTATIONS):
        path = save(tmp_path / f"{number}.nii", numbers("int16"), affine_of(axes, signs))
        seen = assert_read_as_stock(reader, [path])
        labels, _ = read_labels(reader, path)
        assert labels.dtype == np.int16
        assert np.array_equal(labels, seen)
        assert strides(labels) == [s // 2 for s in strides(seen)]


@pytest.mark.parametrize("reader", NIBABEL)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_scaled_or_not(tmp_path, monkeypatch, reader, ending, dtype):
    monkeypatch.setattr(reoriented, "PIECE_BYTES", 300)  # a few planes at a time
    array = numbers(dtype)
    for number, (slope, inter) in enumerate(
        [(None, None), (0, 0), (1, 0), (1, -1024), (0.1, 0), (1.99996948, 0.3), (-3.7e-4, 12.25)]
    ):
        path = save(tmp_path / f"{number}{ending}", array, slope=slope, inter=inter)
        assert_read_as_stock(reader, [path])


@pytest.mark.parametrize("reader", NIBABEL)
def test_headers_that_disagree_with_themselves_are_read_as_stock_reads_them(tmp_path, reader):
    array = numbers("int16")
    image = nib.Nifti1Image(array, affine_of((1, 0, 2), (-1, 1, -1)))
    moved = image.affine.copy()
    moved[0, 3] += 30
    image.set_qform(moved, 1)
    image.set_sform(image.affine, 1)
    nib.save(image, tmp_path / "forms.nii.gz")
    assert_read_as_stock(reader, [tmp_path / "forms.nii.gz"])
    for number, (axes, signs) in enumerate(ORIENTATIONS[::5]):
        for affine in (affine_of(axes, signs), affine_of(axes, signs) @ OBLIQUE):
            path = save(tmp_path / f"{number}.nii", array, affine, pixdim=(2, 0.7, 1.1))
            assert_read_as_stock(reader, [path])
    for forms in ((0, 0), (0, 1), (2, 0)):
        image = nib.Nifti1Image(array, OBLIQUE)
        image.header["sform_code"], image.header["qform_code"] = forms
        path = tmp_path / f"forms{forms}.nii"
        path.write_bytes(image.header.binaryblock + bytes(4) + array.tobytes(order="F"))
        assert_read_as_stock(reader, [path])
    swapped = nib.Nifti1Image(array, OBLIQUE, nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "big.nii.gz")
    assert_read_as_stock(reader, [tmp_path / "big.nii.gz"])
    second = save(tmp_path / "second.nii.gz", array, kind=nib.Nifti2Image)
    assert_read_as_stock(reader, [second])
    flat = save(tmp_path / "flat.nii", array[:, :1], affine_of((2, 0, 1), (1, -1, 1)))
    assert_read_as_stock(reader, [flat])


@pytest.mark.parametrize("reader", NIBABEL)
def test_several_channels(tmp_path, capsys, reader):
    affine = affine_of((2, 0, 1), (-1, 1, -1))
    files = [
        save(tmp_path / f"{c}.nii.gz", numbers(dtype, c), affine)
        for c, dtype in enumerate(("int16", "float32", "uint8"))
    ]
    assert assert_read_as_stock(reader, files).shape[0] == 3
    capsys.readouterr()
    shifted = affine.copy()
    shifted[:3, 3] += 5
    save(files[1], numbers("int16"), shifted)
    assert_read_as_stock(reader, files)
    assert "note: channels with different affines" in capsys.readouterr().out
    # Other axes, the same shape and spacing: stock stacks what does not lie together.
    cube = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    for file, axes in zip(files[:2], ((0, 1, 2), (2, 1, 0)), strict=True):
        save(file, cube, affine_of(axes, (1, -1, 1), (2, 2, 2)))
    assert_read_as_stock(reader, files[:2])
    save(files[1], cube, affine_of((0, 1, 2), (1, -1, 1), (2, 2, 3)))
    with pytest.raises(SourceError, match=r"differ in spacing.*2\.0.*3\.0"):
        read_images(reader, files[:2])
    save(files[1], cube[:2], affine_of((0, 1, 2), (1, -1, 1), (2, 2, 2)))
    with pytest.raises(SourceError, match=r"differ in shape.*3, 3, 3.*3, 3, 2") as caught:
        read_images(reader, files[:2])
    assert all(str(path) in caught.value.where for path in files[:2])


@pytest.mark.parametrize("reader", NIBABEL)
def test_labels_are_integers_or_refused_by_value(tmp_path, monkeypatch, reader):
    monkeypatch.setattr(reoriented, "PIECE_BYTES", 100)
    array = numbers("uint8") % 33
    array[0] = 0
    for dtype, largest in product(TYPES, (32, 40_000, 70_000)):
        labels = array.astype(dtype)
        if not dtype.startswith("float") and largest > np.iinfo(dtype).max:
            continue
        labels[-1, -1, -1] = largest
        path = save(tmp_path / f"{dtype}{largest}.nii.gz", labels, affine_of((1, 2, 0), (-1, 1, 1)))
        ours, properties = read_labels(reader, path)
        theirs, theirs_properties = stock(reader, [path])
        assert ours.dtype == (np.int16 if largest == 32 else np.int32)
        assert np.array_equal(ours, theirs)
        assert_same(properties, theirs_properties)
    array[0, 0, 0] = 1
    path = save(tmp_path / "scaled.nii.gz", array, slope=1.00019837, inter=0)
    with pytest.raises(LabelMapError, match=r"1\.00019\d+ is not a label[^$]*cut it to 1:"):
        read_labels(reader, path)
    for strange in (np.nan, np.inf, 0.5, -0.5, 3e9):
        broken = array.astype(np.float32)
        broken[2, 2, 2] = strange
        with pytest.raises(LabelMapError, match="not a label"):
            read_labels(reader, save(path, broken))


@pytest.mark.parametrize("reader", NIBABEL)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, reader):
    whole = save(tmp_path / "a.nii.gz", numbers("int16", shape=(90, 90, 90)))
    assert Header.of(whole).shape == (90, 90, 90)
    data = whole.read_bytes()
    checksum = data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]
    for bad in (data[:-300], data[:-2], checksum, data[:40], b"", b"no image" * 99):
        whole.write_bytes(bad)
        for read in (lambda: read_images(reader, [whole]), lambda: read_labels(reader, whole)):
            with pytest.raises(SourceError) as caught:
                read()
            assert str(whole) in caught.value.where
    for refused in (tmp_path / "none.nii.gz", whole):
        with pytest.raises(SourceError):
            read_images(reader, [refused])
        with pytest.raises(SourceError):
            Header.of(refused)
    for shape in ((4, 5, 6, 1), (4, 5, 6, 2), (4, 5)):
        with pytest.raises(SourceError, match=f"{len(shape)}-D.*3-D"):
            read_images(reader, [save(whole, numbers("int16", shape=shape))])
    for strange in (np.nan, np.inf, -np.inf, 1e39):
        array = numbers("float64")
        array[1, 2, 3] = strange
        with pytest.raises(SourceError, match="1 voxels"):
            read_images(reader, [save(whole, array)])
    if TURNED[reader]:
        with pytest.raises(GeometryError, match="axis"):
            read_images(reader, [with_affine(whole, np.diag([1, 1, 0, 1]))])
        with pytest.raises(SourceError, match="cannot be read"):
            read_images(reader, [with_affine(whole, np.diag([1, 1, np.nan, 1]))])


@pytest.fixture
def by_stock(monkeypatch):
    """Files that went through the stock class."""
    seen = []
    real = reading._stock
    monkeypatch.setattr(reading, "_stock", lambda r, f: seen.extend(f) or real(r, f))
    return seen


def test_itks_reader_of_nifti_in_every_orientation(tmp_path, by_stock):
    rotated = np.eye(4)
    rotated[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0]
    for number, (axes, signs) in enumerate(ORIENTATIONS):
        for affine in (affine_of(axes, signs), rotated @ affine_of(axes, signs)):
            path = save(tmp_path / f"{number}.nii.gz", numbers("int16"), affine)
            seen = assert_read_as_stock(ITK, [path])
            labels, _ = read_labels(ITK, path)
            assert np.array_equal(labels, seen)
            moved = affine_of(axes, signs)
            image = nib.load(path)
            image.set_qform(moved, 1)
            image.set_sform(affine, 1)
            nib.save(image, tmp_path / "forms.nii.gz")
            assert_read_as_stock(ITK, [tmp_path / "forms.nii.gz"])
    assert not by_stock


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_itks_reader_of_nifti_of_every_type(tmp_path, by_stock, ending):
    affine = affine_of((1, 0, 2), (1, -1, 1))
    for dtype in TYPES:
        by_stock.clear()
        for slope, inter in ((None, None), (0, 0), (1, 0), (0.5, 0), (1, -1024), (0, 7)):
            path = save(tmp_path / f"a{ending}", numbers(dtype), affine, slope=slope, inter=inter)
            assert_read_as_stock(ITK, [path])
        assert len(by_stock) == 3, "what is scaled"
    swapped = nib.Nifti1Image(numbers("int16"), affine, nib.Nifti1Header(endianness=">"))
    nib.save(swapped, path)
    assert_read_as_stock(ITK, [path])
    for shape in ((4, 5, 1), (4, 1, 6), (4, 5, 6, 1), (4, 5, 6, 2), (4, 5)):
        assert_read_as_stock(ITK, [save(path, numbers("int16", shape=shape), affine)])
    strange = numbers("float32")
    strange[0, 0, :3] = np.nan, np.inf, -np.inf
    assert (assert_read_as_stock(ITK, [save(path, strange, affine)])[0, :3, 0, 0] == 0).all()
    strange[np.isfinite(strange)] = 2
    labels, _ = read_labels(ITK, save(path, strange, affine))
    assert np.array_equal(labels, stock(ITK, [path])[0])


def test_channels_by_itks_reader(tmp_path, by_stock):
    affine = affine_of((2, 0, 1), (-1, 1, -1))
    files = [save(tmp_path / f"{c}.nii.gz", numbers("int16", c), affine) for c in range(2)]
    assert_read_as_stock(ITK, files)
    assert not by_stock
    shifted = affine.copy()
    shifted[:3, 3] += 5
    save(files[1], numbers("int16"), shifted)
    assert_read_as_stock(ITK, files)
    assert by_stock == files, "its warning is its own"
    save(files[1], numbers("int16"), affine_of((2, 0, 1), (-1, 1, -1), (1, 1, 1)))
    with pytest.raises(SourceError, match="same spacing"):
        read_images(ITK, files)
    save(files[1], numbers("int16")[:, :, 1:], affine)
    with pytest.raises(SourceError, match="same shape"):
        read_images(ITK, files)
    for bad in (files[1].read_bytes()[:-30], b"", b"no image" * 99):
        files[1].write_bytes(bad)
        with pytest.raises(SourceError) as caught:
            read_labels(ITK, files[1])
        assert str(files[1]) in caught.value.where


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_other_readers_and_formats_are_stocks_own(tmp_path, ending):
    import SimpleITK as sitk

    array = numbers("int16")
    files = []
    for channel in range(2):
        image = sitk.GetImageFromArray(array.transpose(2, 1, 0) + channel)
        image.SetSpacing((0.8, 1.5, 3))
        image.SetOrigin((3, -4, 5))
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, -1))
        files.append(tmp_path / f"{channel}{ending}")
        sitk.WriteImage(image, files[-1])
    for reader in ("SimpleITKIO", "SimpleITKIOWithReorient"):
        assert_read_as_stock(reader, files)
        labels, _ = read_labels(reader, files[0])
        assert np.array_equal(labels, stock(reader, files[:1])[0])
    assert Header.of(files[0]).shape == SHAPE
    strange = array.astype(np.float32)
    strange[1, 2, 3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(strange), files[1])
    if ending == ".nii.gz":  # ITK's NIfTI reader makes it 0
        assert_read_as_stock("SimpleITKIO", files[1:])
    else:
        with pytest.raises(SourceError, match="1 voxels"):
            read_images("SimpleITKIO", files[1:])
    sitk.WriteImage(sitk.GetImageFromArray(array[1:]), files[1])
    with pytest.raises(SourceError, match="same shape") as caught:
        read_images("SimpleITKIO", files)
    assert str(files[1]) in caught.value.where
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(SourceError):
        read_images("SimpleITKIO", files[1:])


def test_pictures_go_through_stocks_own_reader(tmp_path):
    import SimpleITK as sitk

    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    path = tmp_path / "a.png"
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), path)
    images, properties = read_images("NaturalImage2DIO", [path])
    assert images.shape == (3, 1, 5, 7)
    assert properties["spacing"] == (999, 1, 1)
    assert Header.of(path).shape == (7, 5, 3)


@pytest.mark.real
def test_real_cts_are_read_as_stock_reads_them(real_data):
    files = [
        *sorted(real_data.glob("abdomenatlas/*/ct.nii.gz")),
        *sorted(real_data.glob("openkbp/KBP_000[12]/ct.nii.gz")),
        *sorted(real_data.glob("chaos/*/*.nii.gz")),
        *sorted(real_data.glob("labels-only/kits19*.nii.gz")),
    ]
    assert len(files) > 4
    for path in files:
        for reader in NIBABEL:
            assert_read_as_stock(reader, [path])
    scaled = next(real_data.glob("labels-only/PanTS_*.nii.gz"))
    with pytest.raises(LabelMapError, match="is not a label"):
        read_labels("NibabelIO", scaled)
