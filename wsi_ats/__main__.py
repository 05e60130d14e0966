"""python -m wsi_ats: the command line."""

from wsi_ats.cli.main import main

if __name__ == "__main__":
    main()
