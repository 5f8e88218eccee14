"""`dmformer upload`"""

from dmformer_keras.hub import upload_preset


def run(args):
    """Uploads and prints where to."""
    where = upload_preset(
        args.address, args.preset, licence=args.licence, private=args.private, say=print
    )
    print(f"At {where}\nNext:\n  dmformer predict {args.address} IMAGE...")
