from bertc.cli import main

main()
